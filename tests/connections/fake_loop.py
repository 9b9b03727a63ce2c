"""An event loop whose time a test moves."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any


class FakeTimer:
    """What call_later() returns."""

    def __init__(
        self, loop: "FakeLoop", due_at: float, action: Callable[..., None], *args: Any
    ) -> None:
        self.due_at = due_at
        self.action = partial(action, *args)
        self._loop = loop

    def cancel(self) -> None:
        if self in self._loop.timers:
            self._loop.timers.remove(self)


class FakeLoop:
    """Timers run when advance() passes them; futures are the real loop's."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[FakeTimer] = []
        self.exceptions: list[dict[str, Any]] = []

    def time(self) -> float:
        return self.now

    def create_future(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    def call_later(
        self, seconds: float, action: Callable[..., None], *args: Any
    ) -> FakeTimer:
        return self.call_at(self.now + seconds, action, *args)

    def call_at(
        self, due_at: float, action: Callable[..., None], *args: Any
    ) -> FakeTimer:
        timer = FakeTimer(self, due_at, action, *args)
        self.timers.append(timer)
        return timer

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.exceptions.append(context)

    def advance(self, seconds: float) -> None:
        """Let time pass, and run what falls due in it."""
        ends_at = self.now + seconds
        while due := [one for one in self.timers if one.due_at <= ends_at]:
            timer = min(due, key=lambda one: one.due_at)
            self.timers.remove(timer)
            self.now = max(self.now, timer.due_at)
            timer.action()
        self.now = ends_at

    def stand_still(self, seconds: float) -> None:
        """Let time pass in which nothing runs; what fell due runs at the end."""
        self.now += seconds
        self.advance(0)
