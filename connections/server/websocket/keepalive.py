"""Send pings to a client and detect that it is dead."""

import os
import random
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A scheduled call."""

    def cancel(self) -> None:
        """Drop the call."""


class Timers(Protocol):
    """The part of an event loop that schedules calls."""

    def time(self) -> float:
        """Return the current monotonic time in seconds."""

    def call_later(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Run a function after so many seconds."""


class Owner(Protocol):
    """The connection that sends the pings."""

    def send_ping(self, payload: bytes) -> None:
        """Send a ping."""

    def has_moved(self, since: float) -> bool:
        """Return True if bytes moved since then that a ping or pong waits behind."""

    def record_round_trip(self, seconds: float) -> None:
        """Record the duration of a round trip in seconds."""

    def give_up_dead(self) -> None:
        """End the connection: no pong came."""


class Keepalive:
    """
    Sends pings to one client and ends the connection when no pong comes.

    A client is not dead while bytes move: on a slow line a ping waits behind a large
    message, and a pong behind the client's own.

    One ping is outstanding at a time, and one timer runs: for the next ping or for
    the pong. A timer of an earlier ping therefore never ends a client that answers.
    The first ping comes after a random part of the interval, so that clients which
    connected together are not pinged together.
    """

    __slots__ = (
        "_checked_at",
        "_interval_seconds",
        "_owner",
        "_payload",
        "_sent_at",
        "_timeout_seconds",
        "_timer",
        "_timers",
        "rtt_seconds",
    )

    def __init__(
        self,
        *,
        interval_seconds: float,
        timeout_seconds: float,
        timers: Timers,
        owner: Owner,
    ) -> None:
        self._interval_seconds = interval_seconds
        self._timeout_seconds = timeout_seconds
        self._timers = timers
        self._owner = owner
        self._payload = b""
        self._sent_at = 0.0
        self._checked_at = 0.0
        self.rtt_seconds: float | None = None
        first_seconds = random.uniform(0.1, 1) * interval_seconds
        self._timer: Timer = timers.call_later(first_seconds, self._send)

    def on_pong(self, payload: bytes) -> None:
        """Handle a pong; a pong without a matching ping is ignored."""
        if not self._payload or payload != self._payload:
            return
        now = self._timers.time()
        self._payload = b""
        self.rtt_seconds = now - self._sent_at
        self._owner.record_round_trip(self.rtt_seconds)
        self._timer.cancel()
        next_seconds = max(0.0, self._interval_seconds - self.rtt_seconds)
        self._timer = self._timers.call_later(next_seconds, self._send)

    def stop(self) -> None:
        """Stop sending pings."""
        self._timer.cancel()
        self._payload = b""

    def _send(self) -> None:
        self._payload = os.urandom(4)
        self._sent_at = self._checked_at = self._timers.time()
        self._timer = self._timers.call_later(self._timeout_seconds, self._check)
        self._owner.send_ping(self._payload)

    def _check(self) -> None:
        """Give a client up unless bytes move: a ping or pong may wait behind them."""
        if self._owner.has_moved(self._checked_at):
            self._checked_at = self._timers.time()
            self._timer = self._timers.call_later(self._timeout_seconds, self._check)
        else:
            self._owner.give_up_dead()
