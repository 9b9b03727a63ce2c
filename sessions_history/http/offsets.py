"""
Name positions in a session's log for the Durable Streams protocol, section 8.

An offset is the epoch of the log and the offset of the entry before the position, of
a fixed width: within an epoch offsets sort as their texts do.
"""

import re
from dataclasses import dataclass

BEGINNING = "-1"
NOW = "now"

_OFFSET = re.compile(r"([0-9a-f]{1,32})_([0-9]{16})")


@dataclass(frozen=True, slots=True)
class StreamOffset:
    """A position in the log of one epoch: after an entry."""

    epoch: str
    after: int

    def __str__(self) -> str:
        return f"{self.epoch}_{self.after:016d}"


def parse_offset(text: str) -> StreamOffset | str:
    """
    Return an offset, or one of the words BEGINNING and NOW.

    Raises:
        ValueError: it is neither.
    """
    if text in (BEGINNING, NOW):
        return text
    found = _OFFSET.fullmatch(text)
    if found is None:
        raise ValueError("offset is no Stream-Next-Offset of a session, -1 or now")
    return StreamOffset(found[1], int(found[2]))


def read_offset(values: list[str]) -> StreamOffset | str | None:
    """
    Return the offset of a query, or None without one.

    Raises:
        ValueError: it is given twice, or malformed.
    """
    if len(values) > 1:
        raise ValueError("offset is given twice")
    return parse_offset(values[0]) if values else None
