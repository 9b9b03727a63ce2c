"""Performance targets, and the comparison of results with them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.contenders import REFERENCE
from benchmarks.report import Figure, compare, summarise

Values = Mapping[str, float]
Rounds = Mapping[str, Mapping[str, Sequence[Values]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A target for one value of a contender, absolute or relative to another."""

    what: str
    least: str
    measure: str
    key: str
    contender: str = "orchestra-serve"
    against: str | None = REFERENCE
    is_ratio_of_cost: bool = False
    """Whether less is better; the ratio is then theirs to ours."""

    def find(self, rounds: Rounds) -> Figure | None:
        """Return the figure, or None if it was not measured."""
        measured = rounds.get(self.measure, {})
        ours = [values[self.key] for values in measured.get(self.contender, ())]
        if not ours:
            return None
        if self.against is None:
            return summarise(ours)
        theirs = [values[self.key] for values in measured.get(self.against, ())]
        if len(theirs) != len(ours):
            return None
        ratio: Callable[..., Figure] = compare
        return ratio(theirs, ours) if self.is_ratio_of_cost else ratio(ours, theirs)


_ECHO, _IDLE = "echoes_per_second", "idle_echoes_per_second"

TARGETS = (
    Target(what="echoes/s, serve", least="2x, then 3.5x", measure="echo", key=_ECHO),
    Target(
        what="the same, by CPU per echo",
        least="",
        measure="echo",
        key="echo_cpu_us",
        is_ratio_of_cost=True,
    ),
    Target(what="with 1,000 idle", least="2.3x", measure="echo", key=_IDLE),
    Target(
        what="echoes/s, uvicorn",
        least="5x, then 8.3x",
        measure="echo",
        key=_ECHO,
        contender="orchestra-uvicorn",
    ),
    Target(
        what="the same, by CPU per echo",
        least="",
        measure="echo",
        key="echo_cpu_us",
        contender="orchestra-uvicorn",
        is_ratio_of_cost=True,
    ),
    Target(
        what="against Node's socket.io",
        least="1x",
        measure="echo",
        key=_ECHO,
        contender="orchestra-uvicorn",
        against="node-socket.io",
    ),
    Target(
        what="connects/s, token and row",
        least="1.3x",
        measure="connects",
        key="connects_per_second",
    ),
    Target(
        what="against AuthMiddlewareStack",
        least="4x",
        measure="connects",
        key="connects_per_second",
        against="channels-auth",
    ),
    Target(
        what="KiB per idle connection, of the reference's",
        least="at most 1x",
        measure="crowd",
        key="kib_per_connection",
    ),
    Target(
        what="broadcast to many, deliveries/s",
        least="5x",
        measure="broadcast",
        key="deliveries_many_per_second",
    ),
    Target(
        what="CPU of the idle crowd, percent of a core",
        least="at most 5",
        measure="crowd",
        key="idle_cpu_percent",
        against=None,
    ),
    Target(
        what="longest block of the loop, ms (wall)",
        least="at most 50",
        measure="crowd",
        key="blocked_ms",
        against=None,
    ),
    Target(
        what="the same, CPU of the loop's thread, ms",
        least="at most 50",
        measure="crowd",
        key="blocked_cpu_ms",
        against=None,
    ),
    Target(
        what="during a drain, ms (wall)",
        least="at most 50",
        measure="crowd",
        key="drain_blocked_ms",
        against=None,
    ),
    Target(
        what="the same, CPU of the loop's thread, ms",
        least="at most 50",
        measure="crowd",
        key="drain_blocked_cpu_ms",
        against=None,
    ),
)


def check(rounds: Rounds) -> list[tuple[str, str, str]]:
    """Return a row for each measured target."""
    found = ((target, target.find(rounds)) for target in TARGETS)
    return [(one.what, one.least, str(figure)) for one, figure in found if figure]
