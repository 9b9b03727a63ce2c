"""Drop a connection whose server has stopped answering."""

import contextlib
from collections.abc import Awaitable, Callable

from websockets.exceptions import ConnectionClosed


class Heartbeat:
    """Pings the server, which has to say something within a time after each."""

    def __init__(
        self,
        *,
        timeout_seconds: float,
        sleep: Callable[[float], Awaitable[None]],
        ping: Callable[[], Awaitable[None]],
        drop: Callable[[], None],
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._sleep = sleep
        self._ping = ping
        self._drop = drop
        self._has_heard = False

    def hear(self) -> None:
        """Record that the server has said something."""
        self._has_heard = True

    async def beat(self, every_seconds: float) -> None:
        """Ping until the connection has ended; drop it after a ping without answer."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self._sleep(every_seconds)
                self._has_heard = False
                await self._ping()
                await self._sleep(self._timeout_seconds)
                if not self._has_heard:
                    self._drop()
