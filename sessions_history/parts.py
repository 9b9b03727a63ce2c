"""
Define the parts of an answer: text, reasoning, tool calls, sources and more.

The parts of an entry are a log of changes, each a line of JSON; connections.parts tells
what they mean. The text stays apart from them.
"""

import json
import math
from collections.abc import Collection, Iterator
from typing import Any

from connections.parts import FIRST_TEXT, GROWING, TEXT, Change, add_texts, merge
from sessions_history.payloads import clean_text, dump

REASONING = "reasoning"
TOOL_CALL = "tool_call"

_FIELDS: dict[str, dict[str, type]] = {
    TEXT: {"text": str},
    REASONING: {"text": str},
    TOOL_CALL: {
        "name": str,
        "arguments": str,
        "state": str,
        "result": object,
        "approval": dict,
    },
    "source": {"url": str, "title": str},
    "file": {"url": str, "name": str, "media_type": str},
    "usage": {"input_tokens": int, "output_tokens": int, "model": str},
    "error": {"message": str},
    "custom": {"name": str, "data": object},
}
"""The types of parts, and the fields of each."""

AWAITING_APPROVAL = "awaiting_approval"
TOOL_STATES = (
    *("streaming", "waiting", AWAITING_APPROVAL, "running", "done", "error", "denied"),
)
"""States of a tool call; it is streaming while its arguments grow."""

_MOST_CHARACTERS = 100


class Part:
    """
    A part of an answer, or what is new of it.

    With the id of an earlier part it adds to that one: its `text` and `arguments` are
    appended, its other fields replaced. Without an id it begins a part; reasoning
    and text of the same author go on with theirs.
    """

    __slots__ = ("author", "fields", "id", "type")

    def __init__(
        self, type_: str, /, *, id: str = "", author: str = "", **fields: Any
    ) -> None:
        """
        Check the fields of a part.

        Raises:
            ValueError: the type, the state of a tool call, an id or author of over
                100 characters, or the name of a field is not allowed.
            TypeError: a field has another type.
            InvalidMessage: the content cannot be stored.
        """
        allowed = _FIELDS.get(type_)
        if allowed is None:
            raise ValueError(f"a part is one of {', '.join(_FIELDS)}, not {type_!r}")
        for name, value in (("id", id), ("author", author)):
            if len(value) > _MOST_CHARACTERS or (value and not value.isprintable()):
                most = f"at most {_MOST_CHARACTERS} printable characters"
                raise ValueError(f"the {name} of a part has {most}, not {value!r:.120}")
        for name, value in fields.items():
            if name not in allowed:
                known = ", ".join(allowed)
                raise ValueError(f"{type_} has no field {name!r}; it has {known}")
            is_bool = isinstance(value, bool) and allowed[name] is int
            if is_bool or not isinstance(value, allowed[name]):
                needed, given = allowed[name].__name__, type(value).__name__
                raise TypeError(f"{name} of {type_} is {needed}, not {given}")
        state = fields.get("state")
        if state is not None and state not in TOOL_STATES:
            allowed_states = ", ".join(TOOL_STATES)
            raise ValueError(f"the state of a tool call is {allowed_states}: {state!r}")
        self.type = type_
        self.id = id
        self.author = author
        self.fields: dict[str, Any] = {
            name: clean_text(value) if isinstance(value, str) else value
            for name, value in fields.items()
        }
        dump(self.fields, type_)

    def __repr__(self) -> str:
        return f"Part({self.type!r}, id={self.id!r}, author={self.author!r})"


class PartsLog:
    """The changes of one answer's parts, in the order in which they were written."""

    def __init__(self, changes: str = "") -> None:
        self.changes = changes
        """Lines of JSON; it only grows."""
        self.size = 0
        """Characters of the content, which repeated names and ids do not count."""
        self._types: dict[str, tuple[str, str]] = {}
        self._last = self._last_text = FIRST_TEXT
        for change in _read_changes(changes):
            if "type" in change:
                kind = (change["type"], change.get("author", ""))
                self._types[change["id"]] = kind
                self.size += len(json.dumps(change, ensure_ascii=False))
                if kind[0] == TEXT:
                    self._last_text = change["id"]
            self._last = change["id"]

    def add(self, part: Part, room: float = math.inf) -> bool:
        """
        Add a change of any part but a text; return False if it needs more room.

        Raises:
            ValueError: its id is that of a part of another type.
        """
        part_id = part.id
        kind = (part.type, part.author)
        if not part_id and part.type == REASONING:
            part_id = self._last if self._types.get(self._last) == kind else ""
        known = self._types.get(part_id)
        if part_id == FIRST_TEXT or (known is not None and known[0] != part.type):
            is_of = known[0] if known is not None else TEXT
            raise ValueError(f"the part {part_id!r} is {is_of}, not {part.type}")
        fields = part.fields
        if known is None:
            if part.type == TOOL_CALL:
                fields = {"state": TOOL_STATES[0], **fields}
            return self._begin(part, part_id, fields, room)
        if fields:
            grown = [str(fields[name]) for name in GROWING if name in fields]
            others = fields.keys() - set(GROWING)
            line = _make_line({"id": part_id, **fields})
            if not self._write(
                line, len(line) if others else sum(map(len, grown)), room
            ):
                return False
        self._last = part_id or self._last
        return True

    def add_text(self, part: Part | None, at_char: int, room: float = math.inf) -> bool:
        """
        Record that text follows, whose first character is at a position.

        Returns False if that needs more room.

        Raises:
            ValueError: its id is that of an earlier part.
        """
        part_id, author = (part.id, part.author) if part is not None else ("", "")
        last_author = self._types.get(self._last_text, (TEXT, ""))[1]
        if part_id:
            goes_on = part_id == self._last_text
            if not goes_on and (part_id in self._types or part_id == FIRST_TEXT):
                raise ValueError(f"the part {part_id!r} has ended: a text follows it")
        else:
            is_same = part is None or author == last_author
            goes_on = is_same and self._last == self._last_text
        if goes_on:
            self._last = self._last_text
        elif self._begin(part or Part(TEXT), part_id, {"at_char": at_char}, room):
            self._last_text = self._last
        else:
            return False
        return True

    def _begin(
        self, part: Part, part_id: str, fields: dict[str, Any], room: float
    ) -> bool:
        number = len(self._types) + 1
        while not part_id or part_id in self._types:
            part_id = f"{part.type}-{number}"
            number += 1
        change = {"id": part_id, "type": part.type}
        if part.author:
            change["author"] = part.author
        line = _make_line({**change, **fields})
        if not self._write(line, len(line), room):
            return False
        self._types[part_id] = (part.type, part.author)
        self._last = part_id
        return True

    def _write(self, line: str, size: int, room: float) -> bool:
        if size > room:
            return False
        self.changes += line
        self.size += size
        return True


def fold(changes: str) -> str:
    """Return the changes of parts as one change of each part."""
    return (
        "".join(_make_line(part) for part in merge(_read_changes(changes)))
        if changes
        else ""
    )


def erase_decisions(
    changes: str, members: Collection[str] = (), calls: Collection[str] = ()
) -> str:
    """Return changes without who approved or denied some calls, and what they noted."""
    found = []
    for change in _read_changes(changes):
        decided = change.get("approval") or {}
        if decided and (decided.get("by") in members or change["id"] in calls):
            # A responder may write an approval of its own, without a state.
            kept = {key: one for key, one in decided.items() if key == "state"}
            change = {**change, "approval": kept}
        found.append(_make_line(change))
    return "".join(found)


def find_text(changes: str, begin: int) -> tuple[int, int | None]:
    """
    Return where the change ends that begins the next text, and its first character.

    Without one it is the end of the changes.
    """
    if '"at_char":' in changes[begin:]:
        end = begin
        while end < len(changes):
            line_end = changes.index("\n", end) + 1
            at_char = json.loads(changes[end:line_end]).get("at_char")
            end = line_end
            if at_char is not None:
                return end, at_char
    return len(changes), None


def to_wire(changes: str) -> str:
    """Return changes as the JSON of a list."""
    return "[" + changes[:-1].replace("\n", ",") + "]"


def read_parts(changes: str, text: str) -> list[Change]:
    """Return the parts of an answer, each text part with its text."""
    return add_texts(merge(_read_changes(changes)), text)


def _make_line(change: Change) -> str:
    return f"{dump(change)}\n"


def _read_changes(changes: str) -> Iterator[Change]:
    # Not splitlines(): a JSON text may hold other ends of lines.
    return (json.loads(line) for line in changes.split("\n") if line)
