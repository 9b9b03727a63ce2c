"""Send hints about sessions to the other nodes over the bus between nodes."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from connections.background import BackgroundTasks
from connections.bus import Bus, Message

OnMessage = Callable[[str, dict[str, Any]], None]

_KIND = "session"
_MAX_WAITING = 10_000
_AT_ONCE = 200


class BusRelay:
    """
    The hints of all sessions in one channel, which each node receives.

    A hint may be lost, because the log holds the truth.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        on_message: OnMessage,
        on_return: Callable[[], None],
    ) -> None:
        self._bus = bus
        self._on_message = on_message
        self._waiting: deque[Mapping[str, Any]] = deque(maxlen=_MAX_WAITING)
        self._tasks = BackgroundTasks()
        self._sending: asyncio.Task[None] | None = None
        bus.on_message(_KIND, self._hand_on)
        bus.on_return(on_return)

    async def join(self, session_id: str) -> None:
        """Start receiving; the hints of all sessions arrive."""
        await self._bus.start()

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
