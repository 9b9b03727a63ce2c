"""Pings: whether a client that says nothing is still there."""

import os
import random
from collections.abc import Callable
from typing import Protocol

from connections.units import Clock


class Timer(Protocol):
    """What scheduling something returns."""

    def cancel(self) -> None:
        """Do not run it."""


Schedule = Callable[[float, Callable[[], None]], Timer]
"""Run a function after so many seconds, as loop.call_later."""


class Keepalive:
    """
    Sends pings to one client and tells when no pong comes.

    There is one ping on its way at a time and one timer: for the next ping, or
    for the pong. So no timer of an earlier ping can end a client that answers.
    The first ping comes after a random part of the interval, so that clients
    who connected together are not pinged together.
    """

    __slots__ = (
        "_clock",
        "_interval_seconds",
        "_is_behind",
        "_on_dead",
        "_on_round_trip",
        "_payload",
        "_ping",
        "_schedule",
        "_sent_at",
        "_timeout_seconds",
        "_timer",
        "rtt_seconds",
    )

    def __init__(
        self,
        *,
        interval_seconds: float,
        timeout_seconds: float,
        schedule: Schedule,
        clock: Clock,
        ping: Callable[[bytes], None],
        is_behind: Callable[[float], bool],
        on_dead: Callable[[], None],
        on_round_trip: Callable[[float], None],
    ) -> None:
        self._interval_seconds = interval_seconds
        self._timeout_seconds = timeout_seconds
        self._schedule = schedule
        self._clock = clock
        self._ping = ping
        self._is_behind = is_behind
        self._on_dead = on_dead
        self._on_round_trip = on_round_trip
        self._payload = b""
        self._sent_at = 0.0
        self.rtt_seconds: float | None = None
        first_seconds = random.uniform(0.1, 1) * interval_seconds
        self._timer: Timer = schedule(first_seconds, self._send)

    def note_pong(self, payload: bytes) -> None:
        """Take in a pong; one that answers no ping of ours means nothing."""
        if not self._payload or payload != self._payload:
            return
        now = self._clock()
        self._payload = b""
        self.rtt_seconds = now - self._sent_at
        self._on_round_trip(self.rtt_seconds)
        self._timer.cancel()
        next_seconds = max(0.0, self._interval_seconds - self.rtt_seconds)
        self._timer = self._schedule(next_seconds, self._send)

    def stop(self) -> None:
        """Send no more pings."""
        self._timer.cancel()
        self._payload = b""

    def _send(self) -> None:
        self._payload = os.urandom(4)
        self._sent_at = self._clock()
        self._timer = self._schedule(self._timeout_seconds, self._judge)
        self._ping(self._payload)

    def _judge(self) -> None:
        if self._is_behind(self._sent_at):
            # The pong may wait behind what we did not read yet.
            self._timer = self._schedule(self._timeout_seconds, self._judge)
        else:
            self._on_dead()
