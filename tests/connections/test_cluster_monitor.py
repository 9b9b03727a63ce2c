"""A node reads the state of its cluster."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from channels.db import database_sync_to_async
from django.utils import timezone

from connections.hub.hub import Hub
from connections.metrics.counters import Counters
from connections.metrics.meter import Meter
from connections.models import Alert, Sweep
from connections.node.cluster_monitor import ClusterMonitor
from connections.storage.database import Database
from connections.testing import FakeClock
from connections.testing.communicators import make_config
from tests.connections.rows import make_node_row

pytestmark = pytest.mark.django_db(transaction=True)

RULE = {"name": "sweeper_silent", "threshold": 6000, "clear": 3000, "for_seconds": 0}


@pytest.fixture
async def cluster_monitor() -> AsyncIterator[ClusterMonitor]:
    clock = FakeClock()
    database = Database()
    meter = Meter(Counters(), Hub(), clock)
    yield ClusterMonitor(
        make_config(alerts=[RULE]),
        node_id="n1",
        database=database,
        meter=meter,
        clock=clock,
    )
    await database.close()


async def make_row(
    node_id: str = "n1", *, age_seconds: float = 0, **values: Any
) -> None:
    started_at = timezone.now() - timedelta(seconds=age_seconds)
    make = database_sync_to_async(make_node_row)
    await make(node_id, started_at=started_at, **values)


async def record_sweep(age_seconds: float) -> None:
    finished_at = timezone.now() - timedelta(seconds=age_seconds)
    await Sweep.objects.aupdate_or_create(
        name="connections", defaults={"finished_at": finished_at}
    )


async def read_state() -> str | None:
    alert = await Alert.objects.order_by("-since").afirst()
    return alert.state if alert else None


async def test_silence_is_counted_from_the_last_sweep(
    cluster_monitor: ClusterMonitor,
) -> None:
    await make_row(age_seconds=100_000)
    await record_sweep(5000)
    await cluster_monitor.refresh()
    assert 5000 <= (cluster_monitor.sweep_age_seconds or 0) < 6000
    assert await read_state() is None
    await record_sweep(6001)
    await cluster_monitor.refresh()
    assert await read_state() == "firing"
    await record_sweep(0)
    await cluster_monitor.refresh()
    assert await read_state() == "resolved"


async def test_before_the_first_sweep_it_is_counted_from_the_oldest_node(
    cluster_monitor: ClusterMonitor,
) -> None:
    """A node that has just started also sees that sweeps are missing."""
    await make_row("n1", age_seconds=1)
    await make_row("n2", age_seconds=7000)
    await cluster_monitor.refresh()
    assert await read_state() == "firing"
    await cluster_monitor.refresh()
    assert await Alert.objects.acount() == 1


async def test_a_cluster_that_was_off_has_missed_no_sweep(
    cluster_monitor: ClusterMonitor,
) -> None:
    await make_row(age_seconds=1)
    await make_row("n2", age_seconds=9000, state="stopped")
    await record_sweep(8000)
    await cluster_monitor.refresh()
    assert await read_state() is None


async def test_without_live_nodes_the_age_is_unknown(
    cluster_monitor: ClusterMonitor,
) -> None:
    await record_sweep(8000)
    await cluster_monitor.refresh()
    assert cluster_monitor.sweep_age_seconds is None
    assert await read_state() is None


async def test_dead_nodes_are_counted_for_ten_minutes(
    cluster_monitor: ClusterMonitor,
) -> None:
    now = timezone.now()
    await make_row("n2", state="lost", stopped_at=now - timedelta(minutes=9))
    await make_row("n3", state="lost", stopped_at=now - timedelta(minutes=11))
    await make_row("n4", state="stopped", stopped_at=now)
    await cluster_monitor.refresh()
    assert cluster_monitor.lost_nodes == 1
