"""A client of the session protocol that checks everything it gets."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from connections.node.node import Node
from connections.testing.communicators import connect_to
from sessions_history.consumers import SessionConsumer

_TEMPORARY = ("rate_limited", "unavailable")
_FINAL_CLOSES = (4004,)
_EXPECTED_CLOSES = (
    *(1000, 4004, 4104, 4200, 4201, 4202, 4208),
    4103,
)


class Broken(AssertionError):
    """A promise of the protocol does not hold."""


@dataclass(slots=True)
class Held:
    """An entry as the client holds it."""

    sender: str
    data: Any
    state: str

    @property
    def text(self) -> str:
        text: str = self.data["text"]
        return text


class Page:
    """One page of a client: what it was told, and what it waits for."""

    def __init__(self, name: str, session: str = "new") -> None:
        self.name = name
        self.session = session
        self.epoch: str | None = None
        self.position = 0
        self.chain: str | None = None
        """The newest commit that the page was told of."""
        self.entries: dict[int, Held] = {}
        self.sent: dict[str, Any] = {}
        """All messages, by id."""
        self.waiting: set[str] = set()
        """The ids of the messages that are not settled."""
        self.acked: dict[str, int] = {}
        self.acked_marks: list[str] = []
        """The commits that acks named."""
        self.doubtful: set[str] = set()
        """Messages that a log which went back since may have lost."""
        self.refused: dict[str, str] = {}
        self.outcome: str | None = None
        """The outcome of the last attach."""
        self.resets = 0
        self.is_open = False
        self.is_gone = False
        """True once the client was told that its session does not exist."""
        self.missed: set[int] = set()
        """The offsets that an announced gap covers."""
        self.reads = asyncio.Event()
        self.reads.set()
        self._claimed: tuple[int, frozenset[int]] = (0, frozenset())
        self._hello: dict[str, Any] | None = None
        self._inbox: asyncio.Queue[dict[str, Any]] | None = None
        self._task: asyncio.Task[None] | None = None
        self.node: Node | None = None
        """The node of the last connection."""
        self.problems: list[str] = []

    # What the page does

    async def connect(self, node: Node) -> None:
        """Attach to the session, with a claim of what the page holds."""
        self.cut()
        self.node = node
        opened = {
            key for key, held in self.entries.items() if held.state == "streaming"
        }
        query: dict[str, Any] = {}
        if self.epoch is not None:
            query = {"epoch": self.epoch, "offset": self.position}
            if self.chain is not None:
                query["chain"] = self.chain
            if self.acked_marks:
                query["acked"] = ",".join(self.acked_marks[-20:])
            if opened:
                query["open"] = ",".join(map(str, sorted(opened)))
        self._claimed = (self.position, frozenset(opened))
        self._hello = None
        scope = connect_to(
            SessionConsumer,
            node,
            client_id="alice",
            subprotocols=["orchestra.v1"],
            url_route={"kwargs": {"session_id": self.session}},
            query_string=urlencode(query, safe=",").encode(),
        ).scope
        inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        inbox.put_nowait({"type": "websocket.connect"})
        self._inbox = inbox

        async def send(event: dict[str, Any]) -> None:
            if self._inbox is inbox:
                await self.reads.wait()
            if self._inbox is inbox:
                self._take_event(event)

        def lose_socket(task: asyncio.Task[None]) -> None:
            # A server closes the socket of an application that has ended.
            if self._inbox is inbox:
                self.vanish()

        self._task = asyncio.create_task(
            SessionConsumer.as_asgi()(scope, inbox.get, send)
        )
        self._task.add_done_callback(lose_socket)

    def cut(self) -> None:
        """Lose the network: nothing more arrives, and the node notices."""
        if self._inbox is not None:
            self._inbox.put_nowait({"type": "websocket.disconnect", "code": 1006})
        self._inbox = None
        self.is_open = False

    def vanish(self) -> None:
        """Lose the node, which was killed and notices nothing."""
        self._inbox = None
        self.is_open = False

    def say(self, number: int, plan: str) -> None:
        """Send a message; its number is a part of its id."""
        message_id = f"{self.name:x<16}-{number}"
        self.sent[message_id] = {"number": number, "plan": plan}
        self.waiting.add(message_id)
        self.send_again(message_id)

    def send_again(self, message_id: str) -> None:
        """Send a message once more, as after a lost ack."""
        self.send(type="message", id=message_id, data=self.sent[message_id])

    def send(self, **message: Any) -> None:
        """Send the node a message, if there is a connection."""
        if self._inbox is not None and self.is_open:
            text = json.dumps(message)
            self._inbox.put_nowait({"type": "websocket.receive", "text": text})

    # What the page gets

    def _take_event(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind == "websocket.close":
            self._take_close(event.get("code", 1000))
        elif kind == "websocket.send":
            message = json.loads(event["text"])
            take = getattr(self, f"_take_{message['type']}", None)
            if take is None:
                self._break(f"an unknown message: {message}")
            elif self._hello is None and message["type"] not in ("hello", "bye"):
                self._break(f"before hello: {message}")
            else:
                take(message)
                if message["type"] != "ack":
                    self.chain = message.get("chain") or self.chain

    def _take_close(self, code: int) -> None:
        self._inbox = None
        self.is_open = False
        if code not in _EXPECTED_CLOSES:
            self._break(f"closed with {code}")
        if code in _FINAL_CLOSES:
            self.is_gone = True

    def _take_bye(self, message: dict[str, Any]) -> None:
        return

    def _take_hello(self, hello: dict[str, Any]) -> None:
        self.is_open = True
        self._hello = hello
        outcome, gap = hello["outcome"], hello["gap"]
        self.outcome = outcome
        is_first = self.epoch is None
        # A session without entries is new to whoever comes first.
        if (self.session == "new" and outcome != "new") or (
            outcome == "new" and not is_first
        ):
            self._break(f"outcome {outcome} for {self.session}")
        if (outcome == "gap") != (gap is not None):
            self._break(f"outcome {outcome} with the gap {gap}")
        if is_first and outcome not in ("new", "resumed", "nothing_missed"):
            self._break(f"outcome {outcome} without a claim")
        self.session = hello["session"]
        if outcome == "reset":
            self.resets += 1
            self._forget()
        elif not is_first and hello["epoch"] != self.epoch:
            self._break(f"outcome {outcome} with another epoch")
        elif hello["offset"] < self.position:
            self._break(f"outcome {outcome} with the offset {hello['offset']}")
        if gap is not None:
            self.missed.update(range(gap[0], gap[1] + 1))
            for offset in range(gap[0], gap[1] + 1):
                if offset in self.entries and self.entries[offset].state == "streaming":
                    self.entries[offset].state = "lost"
        if outcome == "nothing_missed" and hello["offset"] != self.position:
            self._break(f"nothing missed at {self.position}, but {hello['offset']}")
        if outcome == "reset" or is_first:
            # The first entries may be trimmed.
            self.missed.update(range(1, hello["offset"] + 1))
        self.epoch = hello["epoch"]
        for message_id in sorted(self.waiting):
            self.send_again(message_id)

    def _forget(self) -> None:
        """Drop what the page holds of another log."""
        self.entries.clear()
        self.missed.clear()
        self.position = 0
        self.chain = None
        self.acked.clear()
        self.acked_marks.clear()
        self.doubtful.clear()

    def _take_entry(self, entry: dict[str, Any]) -> None:
        offset = entry["offset"]
        held = self.entries.get(offset)
        if held is not None and held.state not in ("streaming", "lost"):
            self._break(f"the entry {offset} twice")
        if offset > self.position:
            skipped = set(range(self.position + 1, offset)) - self.missed
            if skipped:
                self._break(f"the entry {offset} after {self.position}")
            self.position = offset
        elif held is None:
            self._break(f"the entry {offset} out of order, after {self.position}")
        self.missed.discard(offset)
        self.entries[offset] = Held(entry["from"], entry["data"], entry["state"])

    def _take_delta(self, delta: dict[str, Any]) -> None:
        held = self.entries.get(delta["offset"])
        if held is None or held.state != "streaming":
            self._break(f"a delta of {delta['offset']}, which does not stream")
        elif delta["at_char"] != len(held.text):
            self._break(f"a delta of {delta['offset']} that does not join on: {delta}")
        else:
            held.data["text"] += delta["text"]

    def _take_state(self, message: dict[str, Any]) -> None:
        held = self.entries.get(message["offset"])
        # A node may learn of an end after it told a page of the gap around it.
        if held is None or held.state not in ("streaming", "lost"):
            self._break(f"the end of {message['offset']}, which does not stream")
        else:
            held.state = message["state"]

    def _take_ack(self, ack: dict[str, Any]) -> None:
        message_id, offset = ack["id"], ack["offset"]
        self.acked_marks.append(ack["chain"])
        if message_id in self.waiting:
            self.waiting.remove(message_id)
            self.acked[message_id] = offset
        elif self.acked.get(message_id, offset) != offset:
            if message_id not in self.doubtful:
                self._break(f"{message_id} was acked at two offsets")
            self.acked[message_id] = offset

    def _take_error(self, error: dict[str, Any]) -> None:
        code, message_id = error["code"], error["id"]
        if code in ("internal", "invalid_message", "invalid_json", "unknown_type"):
            self._break(f"an error: {error}")
        if message_id in self.waiting and code not in _TEMPORARY:
            self.waiting.remove(message_id)
            self.refused[message_id] = code

    def _take_deleted(self, message: dict[str, Any]) -> None:
        return

    def _break(self, text: str) -> None:
        self.problems.append(f"{self.name}: {text}")
