"""Spread calls that fall due at once over many turns of the event loop."""

import asyncio
from collections import deque
from collections.abc import Callable

CALLS_PER_TURN = 50
"""Ends of connections in one turn: some 3 ms with the work of their consumers."""


class CallsPerTurn:
    """
    Runs calls in their order, at most so many in one turn of the event loop.

    A network or a proxy that fails ends thousands of connections in one moment. The
    loop polls for the bytes of the other connections between two turns only.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, most: int = CALLS_PER_TURN
    ) -> None:
        self._loop = loop
        self._most = most
        self._made = 0
        self._waiting: deque[Callable[[], None]] = deque()

    def run(self, call: Callable[[], None]) -> None:
        """Make a call at once, or in a later turn if this one has had its number."""
        if self._made >= self._most or self._waiting:
            self._waiting.append(call)
            return
        if not self._made:
            self._loop.call_soon(self._begin_turn)
        self._made += 1
        call()

    def _begin_turn(self) -> None:
        self._made = 0
        if not self._waiting:
            return
        self._loop.call_soon(self._begin_turn)
        while self._waiting and self._made < self._most:
            self._made += 1
            call = self._waiting.popleft()
            try:
                call()
            except Exception as exc:
                # The loop does the same with its own calls: the others still run.
                self._loop.call_exception_handler(
                    {"message": f"{call!r} failed", "exception": exc}
                )
