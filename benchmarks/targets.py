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
    against_key: str = ""
    """The value of `against`, if it is another than `key`."""
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
        key = self.against_key or self.key
        theirs = [values[key] for values in measured.get(self.against, ())]
        if len(theirs) != len(ours):
            return None
        ratio: Callable[..., Figure] = compare
        return ratio(theirs, ours) if self.is_ratio_of_cost else ratio(ours, theirs)


_ECHO, _IDLE = "echoes_per_second", "idle_echoes_per_second"
_MANY = "deliveries_many_per_second"

TARGETS = (
    Target(what="echoes/s, serve", least="13x", measure="echo", key=_ECHO),
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
        what="echoes/s, uvicorn, against Channels on it",
        least="",
        measure="echo",
        key=_ECHO,
        contender="orchestra-uvicorn",
        against="channels-uvicorn",
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
        least="2.4x",
        measure="connects",
        key="connects_per_second",
    ),
    Target(
        what="the same, by CPU per connect",
        least="",
        measure="connects",
        key="connect_cpu_us",
        is_ratio_of_cost=True,
    ),
    Target(
        what="connects/s beside 2,000 connections",
        least="",
        measure="connects",
        key="more_connects_per_second",
    ),
    Target(
        what="connects/s, uvicorn, against Channels on it",
        least="",
        measure="connects",
        key="connects_per_second",
        contender="orchestra-uvicorn",
        against="channels-uvicorn",
    ),
    Target(
        what="connects/s, token and row, against AuthMiddlewareStack",
        least="7x",
        measure="connects",
        key="connects_per_second",
        against="channels-auth",
    ),
    Target(
        what="KiB per idle connection",
        least="at most 12",
        measure="crowd",
        key="kib_per_connection",
        against=None,
    ),
    Target(
        what="KiB per idle connection, of the reference's",
        least="at most 1x",
        measure="crowd",
        key="kib_per_connection",
    ),
    Target(
        what="group message to 1,000, deliveries/s",
        least="5x",
        measure="broadcast",
        key=_MANY,
    ),
    Target(
        what="broadcast() to 1,000, deliveries/s",
        least="50x",
        measure="broadcast",
        key=_MANY,
        contender="orchestra-serve-direct",
    ),
    Target(
        what="against Node's socket.io",
        least="1x",
        measure="broadcast",
        key=_MANY,
        contender="orchestra-serve-direct",
        against="node-socket.io",
    ),
    Target(
        what="against Node's ws",
        least="0.9x",
        measure="broadcast",
        key=_MANY,
        contender="orchestra-serve-direct",
        against="node-ws",
    ),
    Target(
        what="CPU of echoes, 1 worker's of that of 2",
        least="0.91x",
        measure="workers",
        key="cpu_ms_per_1000_echoes",
        contender="orchestra-workers",
        against="orchestra-serve",
        is_ratio_of_cost=True,
    ),
    Target(
        what="least share of connections of 2 workers",
        least="0.4",
        measure="workers",
        key="least_share_of_connections",
        contender="orchestra-workers",
        against=None,
    ),
    Target(
        what="deliveries/s on the sending node of two, of those alone",
        least="0.8x",
        measure="nodes",
        key="near_deliveries_per_second",
        contender="orchestra-nodes",
        against="orchestra-nodes",
        against_key="alone_deliveries_per_second",
    ),
    Target(
        what="the same, by CPU per delivery",
        least="0.8x",
        measure="nodes",
        key="near_delivery_cpu_us",
        contender="orchestra-nodes",
        against="orchestra-nodes",
        against_key="alone_delivery_cpu_us",
        is_ratio_of_cost=True,
    ),
    Target(
        what="deliveries/s on the other node, of those alone",
        least="0.8x",
        measure="nodes",
        key="far_deliveries_per_second",
        contender="orchestra-nodes",
        against="orchestra-nodes",
        against_key="alone_deliveries_per_second",
    ),
    Target(
        what="the same, by CPU per delivery",
        least="0.8x",
        measure="nodes",
        key="far_delivery_cpu_us",
        contender="orchestra-nodes",
        against="orchestra-nodes",
        against_key="alone_delivery_cpu_us",
        is_ratio_of_cost=True,
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
