"""What clients were told of their messages, and whether the log agrees."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_UNKNOWN = ("closed", "timeout")
"""Failures that leave open whether the message was recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An entry of the log."""

    session: str
    offset: int
    sender: str
    state: str
    data: Any


@dataclass(slots=True)
class Message:
    """A message of a client and the ends of its promise."""

    acks: list[tuple[str, int]] = field(default_factory=list)
    failures: list[tuple[str, bool]] = field(default_factory=list)
    """(code, whether the message stays in the storage) of each failure."""
    is_dropped: bool = False


class Records:
    """The events of all clients."""

    def __init__(self, expected_text: str) -> None:
        self.counts: Counter[str] = Counter()
        self.messages: dict[tuple[str, int], Message] = {}
        self.held: dict[str, list[tuple[str, Any]]] = {}
        """(session, entries) of each client at its end."""
        self.problems: list[str] = []
        self._expected = expected_text

    def take(self, event: dict[str, Any]) -> None:
        """Take one event of a client."""
        name, kind = event["client"], event["event"]
        self.counts[f"{kind} {event['outcome']}" if kind == "hello" else kind] += 1
        if kind == "hello" and event["outcome"] == "reset":
            self.problems.append(f"{name} was told {event['outcome']}")
        if kind == "over":
            self.held[name] = [(event["session"], event["entries"])]
            if event["pending"] or event["stored"]:
                self.problems.append(
                    f"{name}: {event['pending']} unsettled, {event['stored']} stored"
                )
            return
        if "number" not in event:
            return
        message = self.messages.setdefault((name, event["number"]), Message())
        if kind == "acked":
            message.acks.append((event["session"], event["offset"]))
        elif kind == "failed":
            message.failures.append((event["code"], bool(event.get("isStored"))))
            self.counts[f"failed as {event['code']}"] += 1
        elif kind == "dropped":
            message.is_dropped = True

    def compare(self, rows: Iterable[Row]) -> list[str]:
        """Return what does not agree with the log."""
        log: dict[str, dict[int, Row]] = defaultdict(dict)
        found: dict[tuple[str, int], list[tuple[str, int]]] = defaultdict(list)
        for row in rows:
            log[row.session][row.offset] = row
            if row.sender == "client":
                key = (row.data["client"], row.data["number"])
                found[key].append((row.session, row.offset))
        problems = list(self.problems)
        for key, message in self.messages.items():
            problems += self._check_message(key, message, found.pop(key, []))
        problems += [f"{key} is in the log and was never sent" for key in found]
        for session, entries in log.items():
            problems += self._check_log(session, entries)
        for name, held in self.held.items():
            for session, entries_held in held:
                problems += _compare_held(name, entries_held, log[session])
        self.counts["entries"] = sum(map(len, log.values()))
        return problems

    def _check_message(
        self, key: tuple[str, int], message: Message, places: list[tuple[str, int]]
    ) -> list[str]:
        ends = len(message.acks) + len(message.failures)
        if ends != 1:
            return [f"the promise of {key} was settled {ends} times"]
        if len(places) > 1:
            return [f"{key} is in the log at {places}"]
        if message.acks:
            if places != message.acks:
                return [f"{key} was acked as {message.acks}, and is at {places}"]
            return []
        ((code, is_stored),) = message.failures
        if places and code not in _UNKNOWN:
            return [f"{key} failed as {code}, and is in the log at {places}"]
        if is_stored and not places and not message.is_dropped:
            return [f"{key} stayed in the storage and was never sent"]
        return []

    def _check_log(self, session: str, entries: dict[int, Row]) -> list[str]:
        problems = []
        if sorted(entries) != list(range(1, len(entries) + 1)):
            problems.append(f"{session} has holes")
        for offset, row in entries.items():
            if row.sender == "client":
                answer = entries.get(offset + 1)
                if answer is None or answer.sender != "server":
                    problems.append(f"{session} #{offset} has no answer")
                continue
            self.counts[f"answers {row.state}"] += 1
            text = row.data["text"]
            is_right = (
                text == self._expected
                if row.state == "done"
                else row.state in ("cancelled", "interrupted")
                and self._expected.startswith(text)
            )
            if not is_right:
                problems.append(f"{session} #{offset} is {row.state}: {text!r}")
        return problems


def _compare_held(name: str, held: Any, log: dict[int, Row]) -> list[str]:
    """Compare what a client holds with the log."""
    found = {offset: (state, json.dumps(data)) for offset, state, data in held}
    first_held = min(found, default=1)
    expected = {
        offset: (row.state, json.dumps(row.data))
        for offset, row in log.items()
        # Earlier entries were trimmed when the client came.
        if offset >= first_held
    }
    if found == expected:
        return []
    differing = sorted(
        offset
        for offset in found.keys() | expected.keys()
        if found.get(offset) != expected.get(offset)
    )
    first = differing[0]
    return [
        f"{name} differs at {differing[:5]}: it holds {found.get(first)},"
        f" the log {expected.get(first)}"
    ]
