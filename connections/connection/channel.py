"""Receive the messages of the channel layer for one connection."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

from connections.asgi import Message
from connections.background import end_as_failure, make_task_context
from connections.connection.scheduling import get_own_context, receive_next
from connections.error_log import get_logger
from connections.layers.mailbox import Awaited, Mailbox
from connections.metrics.counters import Tally

logger = get_logger(__name__)


class Owner(Protocol):
    """The connection of a channel."""

    def name_channel(self, channel_name: str | None, mailbox: Mailbox | None) -> None:
        """Learn the name of the channel; None while the layer is unreachable."""

    def deliver(self, message: Message, lets_pass: bool) -> Awaitable[None]:
        """Handle a message; with lets_pass after one of the client that comes now."""


_DELIVERY = "The delivery of a layer message"

_RETRY_SECONDS = (0.5, 1, 2, 5, 10)


class ConnectionChannel:
    """
    A connection's own channel, and its membership in groups.

    It receives from the handshake on, in the context of the consumer's task. A
    failure of the layer is logged, counted and tried again; it never ends a
    connection.
    """

    __slots__ = (
        "_channel_name",
        "_context",
        "_failures",
        "_layer",
        "_loop",
        "_mailbox",
        "_owner",
        "_rejoining",
        "_task",
    )

    def __init__(
        self,
        layer: Any,
        *,
        owner: Owner,
        failures: Tally,
    ) -> None:
        self._layer = layer
        self._owner: Owner | None = owner
        self._failures = failures
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.Context()
        self._channel_name: str | None = None
        # None on a layer that has none to read.
        self._mailbox: Mailbox | None = None
        self._task: asyncio.Task[None] | None = None
        self._rejoining: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """
        Name the channel, and receive on it from now on.

        Handlers share the context of the task that calls: what one handler sets in a
        context variable the next one reads, whichever task runs it.
        """
        self._context = await get_own_context()
        await self._name_channel()
        if self._mailbox is not None:
            # Most connections never get a message: a task for each would take more
            # memory than the rest of the channel, and a future as much.
            self._mailbox.listen(self)
        else:
            self._loop.call_soon(self._start)

    def close(self) -> None:
        """Stop receiving and free the channel; a second call does nothing."""
        for task in (self._task, self._rejoining):
            if task is not None:
                task.cancel()
        # A cancelled task keeps a traceback, and that this object.
        self._task = self._rejoining = self._mailbox = self._owner = None
        if self._channel_name is not None and hasattr(self._layer, "forget_channel"):
            self._layer.forget_channel(self._channel_name)

    # The listener of its mailbox, until the first message

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def done(self) -> bool:
        return self._owner is None

    def set_result(self, message: Message | None) -> None:
        first: Awaited = self._loop.create_future()
        first.set_result(message)
        self._loop.call_soon(self._start, first)

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
            # Two tasks of one context cannot run at once, and an eager task starts
            # inside the one that creates it.
            context = self._context.copy()
            self._rejoining = self._loop.create_task(
                self._rejoin(missing), context=context.run(make_task_context) or context
            )

    async def leave(self, groups: Iterable[str]) -> None:
        """Leave groups; an unreachable layer drops the membership when it expires."""
        for group in groups:
            await self._call(self._layer.group_discard, group, self._channel_name)

    async def _name_channel(self) -> None:
        name = self._channel_name = await self._call(self._layer.new_channel)
        if name is not None and hasattr(self._layer, "open_mailbox"):
            self._mailbox = self._layer.open_mailbox(name)
        if self._owner is not None:
            self._owner.name_channel(name, self._mailbox)

    def _start(self, first: Awaited | None = None) -> None:
        if self._owner is not None:
            work = self._receive(first)
            self._task = self._loop.create_task(work, context=self._context)

    async def _receive(self, first: Awaited | None) -> None:
        failures = 0
        while True:
            if self._channel_name is None:
                await self._name_channel()
            mailbox = self._mailbox
            if mailbox is not None and not mailbox.is_closed:
                await self._attempt(_DELIVERY, self._read, mailbox, first)
                first = None
                continue
            message = None
            if self._channel_name is not None:
                message = await receive_next(self._receive_one)
            if message is None:
                await asyncio.sleep(_retry_after(failures))
                failures += 1
                continue
            failures = 0
            await self._attempt(_DELIVERY, self._deliver, message, True)

    async def _read(self, mailbox: Mailbox, waiter: Awaited | None) -> None:
        """Deliver the messages of a mailbox until it is closed."""
        # The start of the task has let other tasks run.
        lets_pass = waiter is None
        mailbox.takes_over = True
        while not mailbox.is_closed:
            message = None if waiter is None else await waiter
            if message is not None:
                # Members of a group share it.
                await self._deliver(message.copy(), False)
            elif (message := mailbox.take(mailbox.clock())) is not None:
                if waiter is None:
                    await asyncio.sleep(0)
                await self._deliver(message, lets_pass)
            else:
                waiter = mailbox.expect()
                continue
            waiter, lets_pass = None, True

    def _receive_one(self) -> Awaitable[Any]:
        return self._call(self._layer.receive, self._channel_name)

    async def _deliver(self, message: Message, lets_pass: bool) -> None:
        """Deliver a message, unless the connection has ended."""
        if self._owner is not None:
            await self._owner.deliver(message, lets_pass)

    async def _try_join(self, group: str) -> bool:
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
        return await self._attempt("The channel layer", call, *args)

    async def _attempt(
        self, name: str, call: Callable[..., Awaitable[Any]], *args: Any
    ) -> Any:
        """Return the result of a call, or None if it failed."""
        try:
            with end_as_failure():
                return await call(*args)
        except Exception as exc:
            # Each layer has exceptions of its own.
            self._failures.add(name)
            logger.error(
                "%s failed: %s",
                name,
                exc,
                exc_info=exc,
                extra={"event": "layer_failed"},
            )
            return None


def _retry_after(failures: int) -> float:
    return _RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)]
