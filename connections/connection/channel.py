"""Receive the messages of the channel layer for one connection."""

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from connections.metrics.counters import Tally

logger = logging.getLogger(__name__)

_RETRY_SECONDS = (0.5, 1, 2, 5, 10)


class ConnectionChannel:
    """
    A connection's own channel, and its membership in groups.

    It starts to receive at the first use of the channel's name. A failure of
    the layer is logged, counted and tried again; it never ends a connection.
    """

    __slots__ = (
        "_channel_name",
        "_context",
        "_deliver",
        "_failures",
        "_layer",
        "_loop",
        "_rejoining",
        "_task",
    )

    def __init__(
        self,
        layer: Any,
        deliver: Callable[[dict[str, Any]], Awaitable[None]],
        failures: Tally,
    ) -> None:
        self._layer = layer
        self._deliver = deliver
        self._failures = failures
        self._loop = asyncio.get_running_loop()
        # A task that is created inside async_to_sync() would inherit the executor
        # of a thread that has ended before the task runs.
        self._context = contextvars.copy_context()
        self._channel_name: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._rejoining: asyncio.Task[None] | None = None

    @property
    def channel_name(self) -> str | None:
        """The name of the channel; None while the layer is unreachable."""
        return self._channel_name

    async def name_channel(self) -> None:
        """Ask the layer for a channel name."""
        self._channel_name = await self._call(self._layer.new_channel)

    def open(self) -> None:
        """Start to receive, from any thread; a second call does nothing."""
        if self._task is None:
            try:
                is_in_loop = asyncio.get_running_loop() is self._loop
            except RuntimeError:
                is_in_loop = False
            if is_in_loop:
                self._start()
            else:
                self._loop.call_soon_threadsafe(self._start)

    def close(self) -> None:
        """Stop receiving; a second call does nothing."""
        for task in (self._task, self._rejoining):
            if task is not None:
                task.cancel()
        self._deliver = _drop

    async def join(self, groups: Iterable[str]) -> None:
        """
        Join groups, and retry in the background those that fail.

        Raises:
            TypeError: the name of a group is not valid, as the layer defines it.
        """
        for group in groups:
            self._layer.require_valid_group_name(group)
        missing = [group for group in groups if not await self._try_join(group)]
        if missing:
            self._rejoining = self._start_task(self._rejoin(missing))

    async def leave(self, groups: Iterable[str]) -> None:
        """Leave groups; an unreachable layer drops the membership when it expires."""
        for group in groups:
            await self._call(self._layer.group_discard, group, self._channel_name)

    def _start(self) -> None:
        if self._task is None:
            self._task = self._start_task(self._receive())

    def _start_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._loop.create_task(work, context=self._context)

    async def _receive(self) -> None:
        failures = 0
        while True:
            if self._channel_name is None:
                await self.name_channel()
            message = None
            if self._channel_name is not None:
                message = await self._call(self._layer.receive, self._channel_name)
            if message is None:
                await asyncio.sleep(_retry_after(failures))
                failures += 1
                continue
            failures = 0
            await self._deliver(message)

    async def _try_join(self, group: str) -> bool:
        self.open()
        if self._channel_name is None:
            return False
        return await self._call(self._add_to_group, group) is not None

    async def _add_to_group(self, group: str) -> bool:
        await self._layer.group_add(group, self._channel_name)
        return True

    async def _rejoin(self, missing: list[str]) -> None:
        failures = 0
        while missing:
            await asyncio.sleep(_retry_after(failures))
            failures += 1
            missing = [group for group in missing if not await self._try_join(group)]

    async def _call(self, call: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Return the answer of the layer, or None if it failed."""
        try:
            return await call(*args)
        except Exception as exc:
            # Each layer has exceptions of its own.
            self._failures.add("The channel layer")
            logger.error(
                "The channel layer failed: %s",
                exc,
                exc_info=exc,
                extra={"event": "layer_failed"},
            )
            return None


async def _drop(message: dict[str, Any]) -> None:
    """Drop a message for a connection that has ended."""


def _retry_after(failures: int) -> float:
    return _RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)]
