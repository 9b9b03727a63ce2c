"""An event loop whose time a test moves."""

import asyncio
from collections.abc import Callable


class FakeTimer:
    """What call_later() returns."""

    def __init__(self, loop: "FakeLoop", due_at: float, action: Callable[[], None]):
        self.due_at = due_at
        self.action = action
        self._loop = loop

    def cancel(self) -> None:
        if self in self._loop.timers:
            self._loop.timers.remove(self)


class FakeLoop:
    """Timers run when advance() passes them; futures are the real loop's."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[FakeTimer] = []

    def time(self) -> float:
        return self.now

    def create_future(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    def call_later(self, seconds: float, action: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(self, self.now + seconds, action)
        self.timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        """Let time pass, and run what falls due in it."""
        ends_at = self.now + seconds
        while due := [one for one in self.timers if one.due_at <= ends_at]:
            timer = min(due, key=lambda one: one.due_at)
            self.timers.remove(timer)
            self.now = timer.due_at
            timer.action()
        self.now = ends_at
