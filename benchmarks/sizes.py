"""The amounts of load of a measurement, and what it returns."""

from dataclasses import dataclass

Values = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Amounts of load; QUICK is only a smoke test."""

    warm_up_seconds: float = 0.7
    echo_seconds: float = 3
    idle: int = 1_000
    connects: tuple[int, int] = (2_000, 4_000)
    """How many are opened, and how many more beside those."""
    crowd: int = 10_000
    members: tuple[int, int] = (100, 1_000)
    spread: int = 500
    rest_seconds: float = 30
    drain_seconds: float = 8


WHOLE = Size()
QUICK = Size(
    warm_up_seconds=0.1,
    echo_seconds=0.3,
    idle=50,
    connects=(100, 50),
    crowd=200,
    members=(20, 100),
    spread=60,
    rest_seconds=1,
    drain_seconds=0.5,
)
