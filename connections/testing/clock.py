"""A clock that a test advances."""


class FakeClock:
    """A monotonic clock: call it for the seconds, advance() to let time pass."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Advance the time by some seconds."""
        self.now += seconds
