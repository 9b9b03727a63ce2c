"""Test the simulated cluster, its command, and the charts that it has drawn."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from connections.config.loader import WebSocketConfig
from tests.project import ROOT

pytest.importorskip("simpy", reason="NOT RUN: no simpy; requirements/tests.txt has it")

from benchmarks.simulation.charts import CHARTS, DRAWN, RECORD, draw
from benchmarks.simulation.check import Compared, simulate_returns, simulate_work
from benchmarks.simulation.command import main, report
from benchmarks.simulation.costs import COSTS, PoolCosts, Use, read_costs
from benchmarks.simulation.live import POOLS
from benchmarks.simulation.model import Assumptions, Model
from benchmarks.simulation.node import Cohort
from benchmarks.simulation.scenarios import SCENARIOS, Result, run
from benchmarks.simulation.stations import find_quantile

CHEAP = PoolCosts(
    calm_connect=Use(node_us=2000, redis_us=150, postgres_us=300),
    busy_connect=Use(node_us=1000, redis_us=100, postgres_us=100),
    close=Use(node_us=200, redis_us=20, postgres_us=50),
    full_connect=Use(node_us=1500, redis_us=100, postgres_us=100),
    refusal_node_us=300,
    redis_second_us=2000,
    cluster_second=Use(node_us=3000, redis_us=500, postgres_us=2000),
    node_second=Use(node_us=10_000, redis_us=1000, postgres_us=1000),
    connection_second=Use(node_us=5, redis_us=1, postgres_us=0.1),
    row_postgres_us=50,
)
SMALL = Assumptions(connections=2000, nodes=10, clients_per_cohort=1)


def simulate(
    name: str, *, costs: PoolCosts = CHEAP, assumed: Assumptions = SMALL, seed: int = 1
) -> Result:
    return run(
        SCENARIOS[name], "redis", costs, assumed, seed=seed, progress=lambda text: None
    )


def test_a_seed_decides_everything() -> None:
    first = simulate("node-killed")
    assert simulate("node-killed") == first
    assert simulate("node-killed", seed=2) != first


def test_rest_costs_what_was_measured() -> None:
    """Renewals, beats, rows of active connections, and the churn of lives."""
    summary = simulate("rest", assumed=replace(SMALL, life_seconds=1e6)).summary
    # 2,000 connections at 1 µs, ten nodes at 1,000 µs, and once 2,000 and 500 µs.
    assert summary["redis_cpu_percent_mean"] == pytest.approx(1.45, abs=0.03)
    assert summary["rows_per_second_mean"] == pytest.approx(2000 * 0.1 / 30, rel=0.02)
    assert summary["connects_per_second_mean"] < 0.1


def test_rows_are_written_for_each_connect_and_each_end() -> None:
    assumed = replace(SMALL, life_seconds=20, active_share=0)
    result = simulate("rest", assumed=assumed)
    accepted = sum(result.series["accepted"])
    assert accepted > 1000
    assert sum(result.series["rows"]) == pytest.approx(2 * accepted, rel=0.03)


def test_all_clients_of_a_killed_node_return() -> None:
    result = simulate("node-killed")
    assert result.summary["returned"] >= 200
    assert result.series["open"][-1] == pytest.approx(2000, abs=20)
    # The first back-off is 0.5 to 1 s, and there are other nodes.
    assert 0.5 <= result.summary["away_seconds_p50"] <= 1.1


def test_clients_that_move_together_change_little() -> None:
    one = simulate("region-failover").summary
    many = simulate(
        "region-failover", assumed=replace(SMALL, clients_per_cohort=25)
    ).summary
    for name in ("away_seconds_p50", "away_seconds_p99", "rows_per_second_mean"):
        assert many[name] == pytest.approx(one[name], rel=0.15)


def test_nobody_returns_before_a_region_can_be_left() -> None:
    summary = simulate("region-failover").summary
    assert summary["away_seconds_p50"] > SMALL.failover_seconds


def test_a_deploy_moves_all_and_loses_none() -> None:
    result = simulate("deploy", assumed=replace(SMALL, drained_at_once=2))
    assert result.summary["returned"] >= 1990
    assert result.series["open"][-1] == pytest.approx(2000, abs=20)
    assert result.summary["away_seconds_p50"] < 0.1


def test_a_full_pool_turns_clients_away_and_admits_no_more() -> None:
    result = simulate("pool-full")
    assert max(result.series["open"]) <= 1900
    assert result.summary["full"] > 500
    assert min(result.series["open"][30:]) > 1850


def test_a_node_without_an_answer_of_its_pool_goes_on_alone() -> None:
    slow = replace(
        CHEAP, busy_connect=Use(node_us=1000, redis_us=200_000, postgres_us=0)
    )
    result = simulate("region-failover", costs=slow)
    assert result.summary["redis_cpu_percent_peak"] == pytest.approx(100, abs=0.1)
    assert result.summary["alone"] > 100
    assert result.series["open"][-1] == pytest.approx(2000, abs=20)


def test_shards_share_the_work() -> None:
    one = simulate("rest").summary["redis_cpu_percent_mean"]
    four = simulate("rest", assumed=replace(SMALL, redis_shards=4)).summary
    # What a Redis does alone, all of them do.
    expected = 0.2 + (one - 0.2) / 4
    assert four["redis_cpu_percent_mean"] == pytest.approx(expected, rel=0.2)


def test_handshakes_beyond_max_pending_are_cut_off() -> None:
    """4,000 at once on a real node: 2,000 were accepted, 2,000 cut off."""
    model = Model(CHEAP, replace(SMALL, connections=4000, nodes=1), seed=1)
    answers = [model.nodes[0].begin(Cohort(weight=1)) for _ in range(4000)]
    model.env.run(until=60)
    limit = WebSocketConfig().handshake.max_pending
    assert sum(answer.value is None for answer in answers) == limit
    assert sum(one.refused for one in model.counts.seconds.values()) == 4000 - limit


@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_work_on_nodes_is_the_sum_of_its_parts(nodes: int) -> None:
    count, seconds = 100, 10.0
    used = simulate_work(CHEAP, nodes, count, seconds, seed=1)
    assert used.rows == 2 * count * nodes
    connect = CHEAP.get_connect(8)
    work_us = count * (connect.node_us + CHEAP.close.node_us)
    beats_us = seconds * CHEAP.node_second.node_us
    once_us = seconds * CHEAP.cluster_second.node_us
    expected = (nodes * (work_us + beats_us) + once_us) / 1e6
    assert used.node_seconds == pytest.approx(expected, rel=0.05)


def test_a_batch_shares_its_cost() -> None:
    assert CHEAP.get_connect(1) == CHEAP.calm_connect
    assert CHEAP.get_connect(50) == CHEAP.busy_connect
    assert CHEAP.get_connect(1000) == CHEAP.busy_connect
    assert 1000 < CHEAP.get_connect(8).node_us < 1200


def test_a_drain_spreads_the_returns_over_its_window() -> None:
    seconds = simulate_returns(CHEAP, None, seed=1).seconds
    assert len(seconds) == 100
    assert seconds[49] == pytest.approx(5, abs=0.2)
    assert seconds[-1] == pytest.approx(10, abs=0.2)


def test_clients_try_until_a_node_is_back() -> None:
    returns = simulate_returns(CHEAP, 8.0, seed=1)
    assert returns.attempts > 300
    assert min(returns.seconds) >= 8


def test_a_quantile_counts_clients() -> None:
    values = [(1.0, 90), (5.0, 10)]
    assert find_quantile(values, 0.9) == 1
    assert find_quantile(values, 0.91) == 5
    assert find_quantile([], 0.5) == 0


def test_the_costs_of_the_repository_can_be_read() -> None:
    costs = read_costs(COSTS)
    assert set(costs.pools) == set(POOLS)
    for pool in costs.pools.values():
        assert pool.calm_connect.node_us >= pool.busy_connect.node_us > 0
    assert costs.pools["redis"].connection_second.redis_us > 0
    assert costs.pools["postgres"].busy_connect.redis_us == 0


def test_the_charts_in_the_pages_are_those_of_the_recorded_results() -> None:
    recorded = json.loads(RECORD.read_text())
    page = (ROOT / "docs" / "topics" / "performance.md").read_text()
    found = {(one["scenario"], one["pool"]) for one in recorded["results"]}
    assert found == {(name, pool) for name in SCENARIOS for pool in POOLS}
    for scenario in DRAWN:
        place = CHARTS / f"simulation-{scenario}.svg"
        assert place.read_text() == draw(scenario, recorded)
        assert place.name in page


def test_a_chart_has_a_line_for_each_pool_and_panel(tmp_path: Path) -> None:
    recorded = json.loads(RECORD.read_text())
    drawn = draw("deploy", recorded)
    assert drawn.count('<polyline class="redis"') == 4
    assert drawn.count('<polyline class="postgres"') == 4
    assert draw("deploy", {**recorded, "results": []}) == ""


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("storm",), "no scenario 'storm'; there are rest"),
        (("--nodes", "0"), "--nodes must be 1 or more"),
        (("--life-seconds", "0"), "--life-seconds must be more than 0"),
        (("--connections", "10"), "must be --clients-per-cohort or more"),
        (("--costs", "no.json"), "no.json"),
    ],
)
def test_what_is_wrong_is_named(
    arguments: tuple[str, ...], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert error in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", '{"format": 1}', '{"format": 9}'])
def test_costs_that_cannot_be_used_are_named(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "costs.json"
    place.write_text(content)
    with pytest.raises(SystemExit):
        main(["rest", "--costs", str(place)])
    assert str(place) in capsys.readouterr().err


def test_a_difference_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = Compared(what="rows", measured=2, simulated=2.2, unit="")
    other = replace(same, what="connects", simulated=3)
    assert same.agrees(0.2) and not other.agrees(0.2)
    assert report([same], 0.2, None) == 0
    assert report([same, other], 0.2, tmp_path / "compared.json") == 1
    line = capsys.readouterr().out.splitlines()[-1]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["connects", "2.00", "3.00", "1.50", "differs"]
    written = json.loads((tmp_path / "compared.json").read_text())["compared"]
    assert [one["ratio"] for one in written] == [1.1, 1.5]
