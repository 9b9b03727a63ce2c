"""The scenarios, and what is reported of each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from benchmarks.simulation.costs import PoolCosts
from benchmarks.simulation.model import Assumptions, Model
from benchmarks.simulation.node import Cohort, Steps
from benchmarks.simulation.stations import find_quantile

_BEFORE_SECONDS = 20
"""Seconds at rest before something happens."""

_LONGEST_SECONDS = 1800
"""A scenario ends then, though clients are still away."""

_ARRIVAL_SECONDS = 60

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Something that happens to a cluster."""

    name: str
    about: str
    happen: Callable[[Model], Steps]
    assumes: Mapping[str, Any] = field(default_factory=dict)
    """Assumptions that it needs, in the place of the given ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a scenario did to a cluster with one kind of pool."""

    scenario: str
    pool: str
    summary: Mapping[str, float]
    series: Mapping[str, list[float]]
    """One number for each second."""


def _rest(model: Model) -> Steps:
    model.fill()
    yield model.env.timeout(_BEFORE_SECONDS + 100)


def _cold_start(model: Model) -> Steps:
    cohorts = model.make_cohorts()
    for cohort in cohorts:
        model.env.process(_arrive(model, cohort))
    yield from _wait(model, lambda: all(one.node is not None for one in cohorts))


def _arrive(model: Model, cohort: Cohort) -> Steps:
    yield model.env.timeout(model.random.random() * _ARRIVAL_SECONDS)
    yield from model.arrive(cohort)


def _kill_one(model: Model) -> Steps:
    yield from _kill(model, 1, 0.0)


def _lose_region(model: Model) -> Steps:
    yield from _kill(model, len(model.nodes) // 2, model.assumed.failover_seconds)


def _kill(model: Model, count: int, unreachable_seconds: float) -> Steps:
    model.fill()
    yield model.env.timeout(_BEFORE_SECONDS)
    killed = model.nodes[:count]
    leaving = sum(node.count for node in killed)
    model.kill(killed, unreachable_seconds)
    yield from _wait(model, lambda: _count_back(model) >= leaving)


def _deploy(model: Model) -> Steps:
    model.fill()
    yield model.env.timeout(_BEFORE_SECONDS)
    waiting = list(model.nodes)
    workers = [
        model.env.process(_replace_all(model, waiting))
        for _ in range(model.assumed.drained_at_once)
    ]
    yield model.env.all_of(workers)


def _replace_all(model: Model, waiting: list[Any]) -> Steps:
    while waiting:
        yield model.env.process(model.replace(waiting.pop()))


def _fill_up(model: Model) -> Steps:
    for cohort in model.fill():
        model.env.process(_arrive(model, cohort))
    yield model.env.timeout(_ARRIVAL_SECONDS + 60)


def _count_back(model: Model) -> int:
    return sum(weight for _, weight in model.counts.away)


def _wait(model: Model, is_over: Callable[[], bool]) -> Steps:
    while not is_over() and model.env.now < _LONGEST_SECONDS:
        yield model.env.timeout(1)


_SCENARIOS = (
    Scenario(name="rest", about="all connections at rest", happen=_rest),
    Scenario(
        name="cold-start",
        about=f"all clients connect within {_ARRIVAL_SECONDS} seconds",
        happen=_cold_start,
    ),
    Scenario(name="node-killed", about="one node is killed", happen=_kill_one),
    Scenario(
        name="region-failover",
        about="half of the nodes are lost at once",
        happen=_lose_region,
    ),
    Scenario(
        name="deploy",
        about="all nodes are drained and replaced, some at a time",
        happen=_deploy,
    ),
    Scenario(
        name="pool-full",
        about="max_total_connections is 5 % below the clients that want one",
        happen=_fill_up,
        assumes={"spare_share": -0.05},
    ),
)
SCENARIOS = {scenario.name: scenario for scenario in _SCENARIOS}


def run(
    scenario: Scenario,
    pool: str,
    costs: PoolCosts,
    assumed: Assumptions,
    *,
    seed: int,
    progress: Progress,
) -> Result:
    """Run a scenario and return what it did."""
    model = Model(costs, replace(assumed, **scenario.assumes), seed=seed)
    model.env.process(model.watch())
    happening = model.env.process(scenario.happen(model))
    if scenario.name != "cold-start":
        model.env.process(model.churn())
    while happening.is_alive:
        model.env.run(until=model.env.now + 10)
        open_count = model.counts.seconds[int(model.env.now) - 1].open
        progress(
            f"{scenario.name}, {pool}: {model.env.now:.0f} s simulated, "
            f"{open_count:,} connections open"
        )
    return Result(
        scenario=scenario.name,
        pool=pool,
        summary=_summarise(model),
        series=_make_series(model),
    )


def _make_series(model: Model) -> dict[str, list[float]]:
    seconds = range(int(model.env.now))
    counted = [asdict(model.counts.seconds[second]) for second in seconds]
    series = {name: [float(one[name]) for one in counted] for name in counted[0]}
    nodes = (*model.nodes, *model.retired)
    series["redis_cpu"] = [
        max(shard.busy_seconds[second] for shard in model.redis) for second in seconds
    ]
    series["postgres_cpu"] = [model.postgres.busy_seconds[one] for one in seconds]
    series["node_cpu"] = [
        max(node.core.busy_seconds[second] for node in nodes) for second in seconds
    ]
    return {name: [round(one, 3) for one in values] for name, values in series.items()}


def _summarise(model: Model) -> dict[str, float]:
    series = _make_series(model)
    away = model.counts.away
    summary = {
        "seconds": model.env.now,
        "connects_per_second_peak": max(series["accepted"]),
        "connects_per_second_mean": _mean(series["accepted"]),
        "attempts_per_second_peak": max(series["attempts"]),
        "rows_per_second_peak": max(series["rows"]),
        "rows_per_second_mean": _mean(series["rows"]),
        "redis_cpu_percent_peak": 100 * max(series["redis_cpu"]),
        "redis_cpu_percent_mean": 100 * _mean(series["redis_cpu"]),
        "postgres_cores_peak": max(series["postgres_cpu"]),
        "postgres_cores_mean": _mean(series["postgres_cpu"]),
        "node_cpu_percent_peak": 100 * max(series["node_cpu"]),
        "refused": sum(series["refused"]),
        "full": sum(series["full"]),
        "alone": sum(series["alone"]),
        "returned": sum(weight for _, weight in away),
        "away_seconds_p50": find_quantile(away, 0.5),
        "away_seconds_p99": find_quantile(away, 0.99),
        "away_seconds_longest": find_quantile(away, 1),
    }
    return {name: round(value, 2) for name, value in summary.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
