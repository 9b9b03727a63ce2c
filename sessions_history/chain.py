"""
Number the commits of a session, so that a client can name the last one it knows.

Each commit that appends, resumes or ends an entry adds a link to the chain of its
session: the number of the commit and a random tag. The entry keeps the link of its
append and the last two. A log that went back in time lacks the links that it lost,
however far it has grown since.
"""

import os
import re
from typing import NamedTuple, Self

MARK_LENGTH = 64
_KEPT_LINKS = 3
_MARK = re.compile(r"([0-9]{1,15})-([0-9]{1,15})-([0-9a-f]{12})")


def make_tag() -> str:
    """Return the tag of a commit."""
    return os.urandom(6).hex()


class Mark(NamedTuple):
    """A commit of a session, and the offset of an entry that has its link."""

    number: int
    offset: int
    tag: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the mark of a text, None if it is none or of another release."""
        match = _MARK.fullmatch(text)
        if match is None:
            return None
        number, offset, tag = match.groups()
        return cls(int(number), int(offset), tag)

    @classmethod
    def of_entry(cls, offset: int, chain: str) -> Self | None:
        """Return the mark of the last commit of an entry, if it has one."""
        number, _, tag = chain.rpartition(" ")[2].partition("-")
        return cls(int(number), offset, tag) if tag else None

    def is_commit_of(self, other: "Mark | None") -> bool:
        """Return True if another mark is of the same commit, at whatever offset."""
        return (
            other is not None and self.number == other.number and self.tag == other.tag
        )

    @property
    def link(self) -> str:
        """The commit's link in the chain of an entry."""
        return f"{self.number}-{self.tag}"

    def __str__(self) -> str:
        return f"{self.number}-{self.offset}-{self.tag}"


def add_link(chain: str, link: str) -> str:
    """Return the chain of an entry with one link more: the first and the last two."""
    links = [*chain.split(), link]
    kept = links if len(links) <= _KEPT_LINKS else [links[0], *links[-2:]]
    text = " ".join(kept)
    return text if len(text) <= MARK_LENGTH else f"{links[0]} {link}"


def has_link(chain: str, mark: Mark) -> bool:
    """Return False if an entry lacks the link of a commit that it did not drop."""
    links = chain.split()
    if mark.link in links or len(links) < _KEPT_LINKS:
        return mark.link in links
    return _number(links[0]) < mark.number < _number(links[-2])


def is_other_entry(chain: str, other: str) -> bool:
    """Return True if two entries at one offset are of different logs."""
    first, second = chain.partition(" ")[0], other.partition(" ")[0]
    # Entries of the previous release have no link.
    return bool(first and second and first != second)


def find_resumption(chain: str, *, is_streaming: bool) -> int:
    """Return the number of the commit that resumed an entry last; 0 if none did."""
    if " " not in chain:
        return 0
    links = chain.split()
    if len(links) < (2 if is_streaming else _KEPT_LINKS):
        return 0
    return _number(links[-1 if is_streaming else -2])


def _number(link: str) -> int:
    return int(link.partition("-")[0])


def is_newer(mark: Mark | None, other: Mark | None) -> bool:
    """Return True if a mark is of a later commit than another one, or None."""
    return mark is not None and (other is None or mark.number > other.number)


def compare(mark: Mark | None, newest: Mark | None) -> bool | None:
    """
    Return whether a log whose newest mark is known has the commit of a mark.

    None: the entry at the mark's offset has to be read.
    """
    if mark is None:
        return True
    if newest is None or mark.number > newest.number:
        return False
    return mark.tag == newest.tag if mark.number == newest.number else None
