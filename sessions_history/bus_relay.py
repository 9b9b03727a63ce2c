"""Send hints about sessions to the other nodes over the bus between nodes."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from connections.background import BackgroundTasks
from connections.bus import Bus, Message

OnMessage = Callable[[str, dict[str, Any]], None]

_KIND = "session"
_LISTENER = "session_listener"
_MAX_WAITING = 10_000
_AT_ONCE = 200

_ANNOUNCE_SECONDS = 10
_RETRY_SECONDS = 1
_FORGET_SECONDS = 3.5 * _ANNOUNCE_SECONDS
_ANSWER_SECONDS = 2
"""How long a node that has asked who listens waits for answers."""


class BusRelay:
    """
    The hints of all sessions in one channel, which each node receives.

    A hint may be lost, because the log holds the truth.

    A node with sessions asks over the bus who else listens, and announces itself
    every 10 s. One that nobody answers is alone, and makes no hints: they would take
    a third of the CPU time of an ack. Nodes that meet compare their positions with
    the log, because what was committed before brought no hints.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        node_id: str,
        on_message: OnMessage,
        on_return: Callable[[], None],
    ) -> None:
        self._bus = bus
        self._node_id = node_id
        self._on_message = on_message
        self._on_return = on_return
        self._waiting: deque[Mapping[str, Any]] = deque(maxlen=_MAX_WAITING)
        self._tasks = BackgroundTasks()
        self._sending: asyncio.Task[None] | None = None
        self._is_listening = False
        self._must_ask = True
        self._has_returned = asyncio.Event()
        # When the others have had the time to answer.
        self._answered_at = 0.0
        # Until when another node counts as listening, by its id, and until when any.
        self._listeners: dict[str, float] = {}
        self._others_until = 0.0
        bus.on_message(_KIND, self._hand_on)
        bus.on_message(_LISTENER, self._meet)
        bus.on_return(self._ask_again)

    @property
    def is_alone(self) -> bool:
        """Return True if no other node listens, as far as the bus can tell."""
        if self._must_ask or not self._bus.is_subscribed:
            return False
        now = time.monotonic()
        return now >= self._answered_at and now > self._others_until

    async def join(self, session_id: str) -> None:
        """Start receiving; the hints of all sessions arrive."""
        await self._bus.start()
        if not self._is_listening:
            self._is_listening = True
            name = "The announcement of a node with sessions"
            self._tasks.repeat(self._announce, name, _RETRY_SECONDS)

    async def leave(self, session_id: str) -> None:
        """Do nothing: hints of a session without subscribers are dropped."""

    def publish(self, session_id: str, message: Mapping[str, Any]) -> None:
        """Send a hint to the other nodes soon; drop it if it cannot be sent."""
        self._waiting.append({"session": session_id, "hint": message})
        if self._sending is None or self._sending.done():
            self._sending = self._tasks.start(self._send(), "The relay")

    async def flush(self) -> None:
        """Wait until the hints so far are sent, or dropped."""
        while self._sending is not None and not self._sending.done():
            await asyncio.wait([self._sending])

    async def close(self) -> None:
        """Send nothing more; the pool closes the bus."""
        self._is_listening = False
        await self._tasks.stop()

    async def _send(self) -> None:
        while self._waiting:
            count = min(len(self._waiting), _AT_ONCE)
            messages = [self._waiting.popleft() for _ in range(count)]
            if not await self._bus.publish_all(_KIND, messages):
                self._waiting.clear()

    def _hand_on(self, message: Message) -> None:
        self._on_message(message["session"], message["hint"])

    async def _announce(self) -> None:
        """Ask once answers can arrive, or say again that this node listens; wait."""
        if not self._must_ask:
            await self._say()
        elif self._bus.is_subscribed:
            self._must_ask = False
            # Nobody can have answered before it is said.
            self._answered_at = math.inf
            if await self._say(asks=True):
                self._answered_at = time.monotonic() + _ANSWER_SECONDS
            else:
                self._must_ask = True
        seconds = _RETRY_SECONDS if self._must_ask else _ANNOUNCE_SECONDS
        try:
            async with asyncio.timeout(seconds):
                await self._has_returned.wait()
        except TimeoutError:
            return
        self._has_returned.clear()

    async def _say(self, *, asks: bool = False, answers: str | None = None) -> bool:
        message = {"node": self._node_id, "asks": asks, "answers": answers}
        return await self._bus.publish(_LISTENER, message)

    def _meet(self, message: Message) -> None:
        """Learn that a node listens; answer if it asks, or was not known."""
        node_id, now = message["node"], time.monotonic()
        if node_id == self._node_id or not self._is_listening:
            return
        was_alone = self.is_alone
        is_known = node_id in self._listeners and self._listeners[node_id] >= now
        is_answer = message["answers"] == self._node_id
        kept = {one: until for one, until in self._listeners.items() if until >= now}
        self._others_until = now + _FORGET_SECONDS
        self._listeners = {**kept, node_id: self._others_until}
        if is_answer or not is_known:
            self._on_return()
        # A node that was alone until a late answer lets the other one compare too.
        if message["asks"] or (not is_known and (was_alone or not is_answer)):
            self._tasks.start(self._reply(node_id), "The answer to a node")

    async def _reply(self, node_id: str) -> None:
        await self._say(answers=node_id)

    def _ask_again(self) -> None:
        """Ask who listens: messages may be missing, answers among them."""
        self._must_ask = True
        self._has_returned.set()
        self._on_return()
