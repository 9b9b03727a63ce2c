"""Time that passes when a test says so."""


class FakeClock:
    """A monotonic clock: call it for the seconds, advance() to let time pass."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let some seconds pass."""
        self.now += seconds
