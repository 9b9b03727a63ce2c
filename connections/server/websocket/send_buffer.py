"""Bound the bytes to a client that the kernel has not taken yet."""

import asyncio
from typing import Protocol

from connections.config.sections import BuffersConfig
from connections.server.transport import Transport

_TURN_BYTES = 65_536
"""Bytes after which a sender yields, even while the kernel takes everything."""

_LEAST_PROGRESS_BYTES = 65_536
"""A client that takes fewer bytes in send_stall_seconds counts as not reading."""


class Owner(Protocol):
    """The connection of a buffer."""

    def give_up_slow(self) -> None:
        """Drop a client that does not read."""


class SendBuffer:
    """
    The unsent bytes of a transport, and the senders that wait for room.

    The owner gives the client up when it takes too little for send_stall_seconds
    while more than send_high_water waits, or when more than max_send_buffer waits.
    """

    __slots__ = (
        "_config",
        "_confirmed_bytes",
        "_high_water",
        "_loop",
        "_owner",
        "_ping_begins_at",
        "_taken_at",
        "_taken_bytes",
        "_timer",
        "_transport",
        "_turn_began_at",
        "_waiters",
        "_written_bytes",
        "is_closed",
    )

    def __init__(
        self,
        transport: Transport,
        config: BuffersConfig,
        loop: asyncio.AbstractEventLoop,
        owner: Owner,
    ) -> None:
        self._transport = transport
        self._config = config
        self._high_water = config.send_high_water
        self._loop = loop
        # Not its bound method, which each connection would hold.
        self._owner = owner
        # None until a sender has to wait.
        self._waiters: list[asyncio.Future[None]] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._written_bytes = 0
        self._turn_began_at = 0
        self._taken_bytes = 0
        self._taken_at = 0.0
        self._ping_begins_at = 0
        self._confirmed_bytes = 0
        self.is_closed = False

    @property
    def unsent_bytes(self) -> int:
        """How many bytes wait in this process."""
        return self._transport.unsent_bytes

    @property
    def is_above_high_water(self) -> bool:
        """Return True if a deferrable message should wait."""
        return self._transport.unsent_bytes > self._high_water

    @property
    def should_wait(self) -> bool:
        """Return True if the sender should wait first, for room or for other tasks."""
        return (
            self._transport.unsent_bytes > self._high_water
            or self._written_bytes - self._turn_began_at > _TURN_BYTES
            or self.is_closed
        )

    def write(self, frame: bytes, *, is_shared: bool = False) -> None:
        """
        Send a frame; too many waiting bytes end the connection.

        A shared one is sent at once: those of other connections are sent after it.
        """
        if self.is_closed:
            return
        transport = self._transport
        waiting_bytes = transport.unsent_bytes
        if is_shared:
            transport.write_now(frame)
        else:
            transport.write(frame)
        self._written_bytes += len(frame)
        if waiting_bytes + len(frame) <= self._high_water:
            return
        # One message may be larger than the whole buffer: it is sent alone.
        is_second = waiting_bytes > self._high_water
        if is_second and waiting_bytes + len(frame) > self._config.max_send_buffer:
            self._owner.give_up_slow()
        elif self._timer is None:
            self._begin_watch()

    async def wait_for_room(self) -> None:
        """
        Return when at most send_high_water waits, or after close().

        Other tasks run in any case: a handler that sends in a loop would block them
        as long as its client reads, or for ever after the client has left.
        """
        self._turn_began_at = self._written_bytes
        await asyncio.sleep(0)
        while not self.is_closed and self.is_above_high_water:
            if self._timer is None:
                # TLS adds bytes: the frame was below the mark when it was written.
                self._begin_watch()
            waiter = self._loop.create_future()
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                self._waiters.remove(waiter)

    def on_drained(self) -> None:
        """Wake the waiting senders if there is room."""
        for waiter in self._waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def follow_ping(self) -> None:
        """Remember which bytes are before a ping that is written now."""
        self._ping_begins_at = self._written_bytes
        self._confirmed_bytes = self._count_confirmed()

    def has_ping_moved(self) -> bool:
        """
        Return True if the ping came closer to the client since the last call.

        The client's host has confirmed bytes that were written before it.
        """
        before, self._confirmed_bytes = self._confirmed_bytes, self._count_confirmed()
        return before < self._ping_begins_at and self._confirmed_bytes > before

    def _count_confirmed(self) -> int:
        transport = self._transport
        return (
            self._written_bytes - transport.unsent_bytes - transport.unconfirmed_bytes
        )

    def close(self) -> None:
        """Write nothing more, and wake all waiting senders."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        self.on_drained()

    def _begin_watch(self) -> None:
        self._taken_bytes = self._written_bytes - self.unsent_bytes
        self._taken_at = self._loop.time()
        self._schedule()

    def _schedule(self) -> None:
        interval_seconds = self._config.send_stall_seconds / 4
        self._timer = self._loop.call_later(interval_seconds, self._watch)

    def _watch(self) -> None:
        """Check whether the client still reads; below the mark the check ends."""
        self._timer = None
        if not self.is_above_high_water:
            self.on_drained()
            return
        taken_bytes = self._written_bytes - self.unsent_bytes
        if taken_bytes - self._taken_bytes >= _LEAST_PROGRESS_BYTES:
            self._taken_bytes = taken_bytes
            self._taken_at = self._loop.time()
        elif self._loop.time() - self._taken_at >= self._config.send_stall_seconds:
            self._owner.give_up_slow()
            return
        self._schedule()
