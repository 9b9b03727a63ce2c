"""Send hints about sessions to the other nodes over the bus between nodes."""

import asyncio
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
_FORGET_SECONDS = 3.5 * _ANNOUNCE_SECONDS
_ANSWER_SECONDS = 2
"""How long a node that has just announced itself waits for answers."""


class BusRelay:
    """
    The hints of all sessions in one channel, which each node receives.

    A hint may be lost, because the log holds the truth. A node that has sessions
    announces itself, and those that hear of it for the first time answer. So a node
    that no other one answers is alone, and makes no hints: they would take a third of
    its time.
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
        self._is_announcing = False
        # When others have had the time to answer the first announcement.
        self._answered_at = float("inf")
        # Until when another node counts as listening, by its id.
        self._listeners: dict[str, float] = {}
        bus.on_message(_KIND, self._hand_on)
        bus.on_message(_LISTENER, self._meet)
        bus.on_return(self._start_anew)

    @property
    def is_alone(self) -> bool:
        """Return True if no other node listens, as far as the bus can tell."""
        now = time.monotonic()
        if now < self._answered_at or not self._bus.is_subscribed:
            return False
        return all(until < now for until in self._listeners.values())

    async def join(self, session_id: str) -> None:
        """Start receiving; the hints of all sessions arrive."""
        await self._bus.start()
        if not self._is_announcing:
            self._is_announcing = True
            self._answered_at = time.monotonic() + _ANSWER_SECONDS
            self._tasks.repeat(
                self._announce_later, "The announcement", _ANNOUNCE_SECONDS
            )
            await self._announce()

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
        await self._tasks.stop()

    async def _send(self) -> None:
        while self._waiting:
            count = min(len(self._waiting), _AT_ONCE)
            messages = [self._waiting.popleft() for _ in range(count)]
            if not await self._bus.publish_all(_KIND, messages):
                self._waiting.clear()

    def _hand_on(self, message: Message) -> None:
        self._on_message(message["session"], message["hint"])

    async def _announce_later(self) -> None:
        await asyncio.sleep(_ANNOUNCE_SECONDS)
        await self._announce()

    async def _announce(self, answers: str | None = None) -> None:
        message = {"node": self._node_id, "answers": answers}
        await self._bus.publish(_LISTENER, message)

    def _meet(self, message: Message) -> None:
        """Learn that a node listens; answer one that was not known."""
        node_id, now = message["node"], time.monotonic()
        if node_id == self._node_id or not self._is_announcing:
            return
        is_known = self._listeners.get(node_id, 0) >= now
        self._listeners[node_id] = now + _FORGET_SECONDS
        if message["answers"] == self._node_id:
            # What it committed before it knew of this node brought no hints.
            self._on_return()
        elif not is_known:
            self._tasks.start(self._announce(answers=node_id), "The announcement")

    def _start_anew(self) -> None:
        """Announce this node again: messages may be missing."""
        if self._is_announcing:
            self._answered_at = time.monotonic() + _ANSWER_SECONDS
            self._tasks.start(self._announce(), "The announcement")
        self._on_return()
