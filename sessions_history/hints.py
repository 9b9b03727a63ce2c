"""Encode entries for the hints that nodes send each other."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sessions_history.chain import Mark
from sessions_history.entries import Entry, Growth


def pack(entries: Sequence[Entry]) -> dict[str, Any]:
    """Return entries as part of a hint; earlier releases read no chains or parts."""
    packed = [
        [
            entry.offset,
            entry.kind,
            entry.sender,
            entry.at.isoformat(),
            entry.data,
            entry.state,
        ]
        for entry in entries
    ]
    found: dict[str, Any] = {"entries": packed}
    found["chains"] = [entry.chain for entry in entries]
    if any(entry.author for entry in entries):
        found["authors"] = [entry.author for entry in entries]
    if any(entry.replaces for entry in entries):
        found["replaces"] = [entry.replaces for entry in entries]
    if any(entry.parts for entry in entries):
        found["parts"] = [entry.parts for entry in entries]
    return found


def pack_commit(entries: Sequence[Entry], previous: str) -> dict[str, Any]:
    """Return the commit of entries and the one before it, as part of a hint."""
    return {"commit": str(entries[-1].mark or ""), "previous": previous}


def pack_growth(growth: Growth, at: tuple[int, int]) -> dict[str, Any]:
    """Return chunks as a hint; `at` has the characters before each of them."""
    found: dict[str, Any] = {}
    if growth.text:
        found["chunk"] = [growth.offset, at[0], growth.text]
    if growth.parts:
        found["changes"] = [growth.offset, at[1], growth.parts]
    return found


def unpack(message: Mapping[str, Any]) -> list[Entry]:
    """Return the entries of a hint."""
    packed = message.get("entries", ())
    none = [""] * len(packed)
    chains = message.get("chains") or none
    authors = message.get("authors") or none
    parts = message.get("parts") or none
    replaces = message.get("replaces") or [None] * len(packed)
    return [
        Entry(
            offset=offset,
            kind=kind,
            sender=sender,
            at=datetime.fromisoformat(at),
            data=text,
            state=state,
            chain=chain,
            author=author,
            parts=changes,
            replaces=replaced,
        )
        for (offset, kind, sender, at, text, state), *of_entry in zip(
            packed, chains, authors, parts, replaces, strict=True
        )
        for chain, author, changes, replaced in [of_entry]
    ]


def unpack_commit(message: Mapping[str, Any]) -> tuple[Mark | None, Mark | None, int]:
    """Return a hint's commit, the one before it and the first offset it appended."""
    commit, previous = Mark.parse(message["commit"]), Mark.parse(message["previous"])
    return commit, previous, message.get("first", 0)
