"""Compare a forecast and observed counts with what enforcing does over a day."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from connections.forecast.report import make_forecast
from connections.forecast.simulation import (
    LIMIT_OF,
    Forecast,
    ForecastLimits,
)
from connections.models import Connection
from connections.node.node import Node
from connections.storage.database import Database
from connections.testing import FakeClock
from connections.testing.communicators import make_config
from tests.connections.recorded_day import BEAT_SECONDS, Day, Replay, generate_day

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

START = datetime(2026, 3, 2, tzinfo=UTC)
END = START + timedelta(days=1)
DAY = generate_day(20)
OBSERVE = dict.fromkeys(("clients", "total", "idle"), "observe")
IN_FORCE = {
    "max_connections_per_client": 5,
    "max_total_connections": 190,
    "idle_timeout_seconds": 300,
}

RunDay = Callable[..., Any]


@pytest.fixture
def run_day(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> RunDay:
    caplog.set_level(logging.WARNING, "connections.ends")  # pytest keeps every line

    async def run(*, is_recorded: bool = False, **values: Any) -> tuple[Node, Replay]:
        clock = FakeClock()
        database = Database() if is_recorded else None
        node = Node(make_config(**(IN_FORCE | values)), database=database, clock=clock)
        day = Day(node, clock, START)
        monkeypatch.setattr(timezone, "now", lambda: day.now)
        found = await day.run(DAY)
        monkeypatch.undo()
        await node.stop()
        return node, found

    return run


@pytest.fixture(autouse=True)
def beat(settings: Any) -> None:
    settings.WEBSOCKET = make_config(node={"beat_seconds": BEAT_SECONDS})


def forecast(**limits: Any) -> Forecast:
    values: dict[str, Any] = IN_FORCE | {"on_client_limit": "evict_oldest"} | limits
    return make_forecast(ForecastLimits(**values), START, END)


def sum_by_limit(found: Forecast) -> dict[str, int]:
    sums = dict.fromkeys(LIMIT_OF.values(), 0)
    for kind, count in found.affected.items():
        sums[LIMIT_OF[kind]] += count
    return sums


def assert_agree(found: dict[str, int], real: dict[str, int]) -> None:
    assert set(found) == set(real)
    for limit, count in real.items():
        assert found[limit] == pytest.approx(count, rel=0.01), (limit, found, real)


async def test_a_forecast_agrees_with_what_enforcing_does(run_day: RunDay) -> None:
    """The day has 10,000 connections; each limit affects hundreds of them."""
    node, nobody = await run_day(is_recorded=True, enforce=OBSERVE)
    assert not nobody.affected
    assert await Connection.objects.filter(reason="closed").acount() == len(DAY)
    observed = node.counters.get_totals(())["would_have"]

    _, enforced = await run_day()
    assert min(enforced.affected.values()) > 200
    assert_agree(observed, enforced.affected)
    found = await sync_to_async(forecast)()
    assert found.connections == len(DAY)
    assert_agree(sum_by_limit(found), enforced.affected)
    most = enforced.by_client.most_common(5)
    ranked = {client_id: count for client_id, count, _ in found.ranking.list()}
    for client_id, count in most:
        assert ranked[client_id] == pytest.approx(count, rel=0.05)
    assert len(found.affected_clients) == pytest.approx(
        len(enforced.by_client), rel=0.01
    )

    # The same records tell of limits that were never in force.
    others: list[dict[str, Any]] = [
        {"max_connections_per_client": 3},
        {"idle_timeout_seconds": 500, "max_connections_per_client": 4},
        {"on_client_limit": "refuse", "max_total_connections": 180},
    ]
    for other in others:
        _, enforced = await run_day(**other)
        found = await sync_to_async(forecast)(**other)
        assert_agree(sum_by_limit(found), enforced.affected)


CROWDED: dict[str, Any] = {
    "max_connections_per_client": 1000,
    "idle_timeout_seconds": 0,
}


async def test_a_forecast_knows_the_handshakes_that_a_full_pool_refused(
    run_day: RunDay,
) -> None:
    """Nothing is observed: the pool was full, and hundreds of clients had no slot."""
    _, in_force = await run_day(is_recorded=True, **CROWDED)
    found = await sync_to_async(forecast)(**CROWDED)
    assert found.refused == in_force.affected["total"] > 1000
    assert found.connections == len(DAY) - found.refused
    assert sum_by_limit(found)["total"] == found.refused
    assert len(found.affected_clients) == len(in_force.by_client)
    for total in (150, 200):
        limits = CROWDED | {"max_total_connections": total}
        _, enforced = await run_day(**limits)
        found = await sync_to_async(forecast)(**limits)
        assert bool(found.estimated) is (total > IN_FORCE["max_total_connections"])
        real = {"clients": 0, "idle": 0} | enforced.affected
        assert_agree(sum_by_limit(found), real)
