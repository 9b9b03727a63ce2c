"""
Assemble the parts of an answer from their changes.

The first change of a part names its type. A later one adds to the part's `text` and
`arguments`, and replaces its other fields. The text of an answer stays apart: a text
part begins at a character of it, and ends where the next one begins.
"""

from collections.abc import Iterable
from typing import Any

TEXT = "text"
FIRST_TEXT = "text"
"""The id of the part with the text before the first text part."""

GROWING = ("text", "arguments")
"""The fields that grow."""

Change = dict[str, Any]


def merge(changes: Iterable[Change]) -> list[Change]:
    """Return one change of each part, in the order in which the parts began."""
    parts: dict[str, Change] = {}
    pieces: dict[tuple[str, str], list[str]] = {}
    for change in changes:
        part_id = change["id"]
        part = parts.setdefault(part_id, {})
        for name, value in change.items():
            if name in GROWING:
                pieces.setdefault((part_id, name), []).append(value)
            part[name] = value
    for (part_id, name), grown in pieces.items():
        parts[part_id][name] = "".join(grown)
    return list(parts.values())


def add_texts(parts: Iterable[Change], text: str) -> list[Change]:
    """Return merged parts in which each text part has its text."""
    found = [dict(part) for part in parts]
    texts = [part for part in found if part["type"] == TEXT]
    if (texts and texts[0]["at_char"] > 0) or (text and not texts):
        first = {"id": FIRST_TEXT, "type": TEXT, "at_char": 0}
        found, texts = [first, *found], [first, *texts]
    ends = [part["at_char"] for part in texts[1:]] + [len(text)]
    for part, end in zip(texts, ends, strict=False):
        part["text"] = text[part.pop("at_char") : end]
    return found
