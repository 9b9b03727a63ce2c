"""An event loop in which waiting takes no time."""

import asyncio
import selectors
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, TypeVar

Result = TypeVar("Result")

_SETTLED_AFTER = 30
"""Turns of the loop in which everything that can happen at once has happened."""


class _JumpingSelector(selectors.SelectSelector):
    """Where the loop would wait for its next timer, it is that late already."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise RuntimeError("all wait for each other; nothing will ever happen")
        self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop, with a clock that jumps from one timer to the next."""

    def __init__(self) -> None:
        self._virtual = _JumpingSelector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


class VirtualTime:
    """Runs what a test wants to happen, and lets time pass when it says so."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner(loop_factory=VirtualLoop)

    def __enter__(self) -> "VirtualTime":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __call__(self) -> float:
        """Return the seconds since the beginning."""
        return self._runner.get_loop().time()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine to its end, in no time unless it waits."""
        return self._runner.run(work)

    def settle(self) -> None:
        """Let happen what happens without time passing."""
        self.run(_settle())

    def advance(self, seconds: float) -> None:
        """Let so much time pass, with everything that falls due in it."""
        self.run(asyncio.sleep(seconds))
        self.settle()

    def close(self) -> None:
        """Cancel what still runs."""
        self._runner.close()


async def _settle() -> None:
    for _ in range(_SETTLED_AFTER):
        await asyncio.sleep(0)
