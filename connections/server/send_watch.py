"""End an HTTP connection whose client does not read its response."""

import fcntl
import struct
import termios
from collections.abc import Callable
from typing import Any

from connections.config.sections import HttpConfig
from connections.server.compat import count_unsent_bytes
from connections.server.timers import CoarseTimers, HasDeadline


class SendWatch(HasDeadline):
    """
    Compares the bytes that a client took with a minimum rate.

    A window begins with bytes that the client has not acknowledged. At its end it has
    taken either these, or http.min_bytes_per_second; else it stalls. Bytes that the
    kernel took count too: they may fill its buffer in the first window. No timer runs
    while everything is acknowledged.
    """

    def __init__(
        self,
        descriptor: Any,
        timers: CoarseTimers,
        config: HttpConfig,
        on_stall: Callable[[], None],
    ) -> None:
        self._descriptor = descriptor
        self._timers = timers
        self._deadline = None
        self._window_seconds = config.stall_seconds
        self._required_bytes = config.min_bytes_per_second * config.stall_seconds
        self._on_stall: Callable[[], None] | None = on_stall
        self._unsent_before = self._waiting_before = self._written_bytes = 0

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait in this process."""
        return 0 if self._on_stall is None else count_unsent_bytes(self._descriptor)

    def record(self, written_bytes: int) -> None:
        """Record bytes that were written to the transport."""
        if self._on_stall is None:
            return
        if self._deadline is None:
            self._begin_window()
        else:
            self._written_bytes += written_bytes

    def stop(self) -> None:
        """Let go of a connection that is closed or has become a WebSocket."""
        self._stop_deadline()
        # Both refer to the owner of this watch: a reference cycle.
        self._descriptor = self._on_stall = None

    def _begin_window(self) -> None:
        self._written_bytes = 0
        self._unsent_before = self.unsent_bytes
        self._waiting_before = self._unsent_before + self._count_in_kernel()
        self._start_deadline(self._window_seconds, self._end_window)

    def _end_window(self) -> None:
        self._deadline = None
        unsent = self.unsent_bytes
        waiting = unsent + self._count_in_kernel()
        if not waiting:
            return
        acknowledged = self._waiting_before + self._written_bytes - waiting
        sent = self._unsent_before + self._written_bytes - unsent
        required = min(self._waiting_before, self._required_bytes)
        if max(acknowledged, sent) >= required:
            self._begin_window()
        elif self._on_stall is not None:
            self._on_stall()

    def _count_in_kernel(self) -> int:
        """
        Return how many bytes in the kernel the client has not acknowledged.

        The kernel takes bytes of a slow client from this process only about once a
        minute (tcp(7), SIOCOUTQ). For a Unix socket it also counts its own overhead.
        """
        try:
            fetched = fcntl.ioctl(self._descriptor.fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:  # Not for sockets of this system.
            return 0
        in_kernel: int = struct.unpack("i", fetched)[0]
        return in_kernel
