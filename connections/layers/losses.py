"""Count the messages that an outage drops, and report them when it is over."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from connections.background import BackgroundTasks
from connections.error_log import get_logger

logger = get_logger(__name__)

_RETRY_SECONDS = 0.5
_NAMES_REMEMBERED = 10_000
"""Channels and groups that get a gap after an outage; others lose messages unseen."""

SendGap = Callable[[str, int], Awaitable[None]]


class Losses:
    """
    The messages that were dropped while the server was away, by channel or group.

    send_gap() sends a name the number of its lost messages, and raises one of
    `failures` as long as the server is away.
    """

    def __init__(
        self, send_gap: SendGap, failures: tuple[type[Exception], ...]
    ) -> None:
        self.is_away = False
        """True from the first failure until all gaps are sent."""
        self._send_gap = send_gap
        self._failures = failures
        self._missed: dict[str, int] = {}
        self._may_be_back = asyncio.Event()
        self._tasks = BackgroundTasks()

    def begin_outage(self) -> None:
        """Send gaps as soon as the server is back; a second call does nothing."""
        if not self.is_away:
            self.is_away = True
            self._tasks.start(self._report(), "The layer recovers")

    def add(self, name: str) -> None:
        """Count a dropped message."""
        if name in self._missed or len(self._missed) < _NAMES_REMEMBERED:
            self._missed[name] = self._missed.get(name, 0) + 1

    def on_return(self) -> None:
        """Try to send the gaps at once."""
        self._may_be_back.set()

    async def flush(self) -> None:
        """Forget everything."""
        await self._tasks.stop()
        self.is_away = False
        self._missed.clear()

    async def _report(self) -> None:
        """Wait for the server and send each name a gap of the messages it missed."""
        while self.is_away:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_SECONDS):
                    await self._may_be_back.wait()
            self._may_be_back.clear()
            try:
                await self._send_gaps()
            except self._failures:
                continue
            except Exception as exc:
                # Messages must be sent again, with or without the gaps.
                logger.error(
                    "The gaps of the channel layer are not sent: %s",
                    exc,
                    exc_info=exc,
                    extra={"event": "layer_gaps_failed"},
                )
                self._missed.clear()
            self.is_away = False

    async def _send_gaps(self) -> None:
        while self._missed:
            name, missed = next(iter(self._missed.items()))
            await self._send_gap(name, missed)
            # More may have been dropped during the command.
            self._missed[name] -= missed
            if not self._missed[name]:
                del self._missed[name]
