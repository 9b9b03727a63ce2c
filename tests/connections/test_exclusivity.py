"""A node is refused beside one with another pool, unless that one has ended."""

import asyncio
import os
import socket
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.utils import timezone

from connections.exceptions import UnsharedLimits
from connections.models import Node
from connections.node.exclusivity import require_no_older_node, require_shared_limits
from connections.testing.communicators import make_config
from connections.testing.waiting import scale
from tests.connections.rows import make_node_row
from tests.connections.switchable_database import SwitchableDatabase

pytestmark = pytest.mark.django_db


def make_node(**values: Any) -> Node:
    return make_node_row(os.urandom(16).hex(), **({"host": "elsewhere"} | values))


class Waits:
    """A wait in which live nodes beat."""

    def __init__(self, *live: Node) -> None:
        self.seconds = 0.0
        self._live = [node.node_id for node in live]

    def __call__(self, seconds: float) -> None:
        self.seconds += seconds
        Node.objects.filter(node_id__in=self._live).beat()


def test_another_live_node_is_named() -> None:
    waits = Waits(make_node(host="other", pid=7, pool="memory"))
    with pytest.raises(UnsharedLimits, match=r"other:7.*REDIS_URL.*allow_unshared"):
        require_shared_limits(make_config(), "memory", wait=waits)


def test_another_live_node_on_this_host_is_found() -> None:
    waits = Waits(make_node(host=socket.gethostname(), pid=os.getppid()))
    with pytest.raises(UnsharedLimits):
        require_shared_limits(make_config(), "memory", wait=waits)


@pytest.mark.parametrize(
    ("own", "other"), [("redis", "redis"), ("redis", ""), ("postgres", "postgres")]
)
def test_nodes_that_share_a_pool_serve_beside_each_other(own: str, other: str) -> None:
    """A node of an older release, which names no pool, had to have Redis."""
    waits = Waits(make_node(pool=other))
    require_shared_limits(make_config(), own, wait=waits)
    assert waits.seconds == 0


@pytest.mark.parametrize(
    ("own", "other"),
    [
        ("memory", "memory"),
        ("memory", "redis"),
        ("redis", "memory"),
        ("redis", "postgres"),
        ("postgres", "redis"),
        ("postgres", ""),
    ],
)
def test_a_node_of_another_pool_is_refused(own: str, other: str) -> None:
    waits = Waits(make_node(pool=other))
    with pytest.raises(UnsharedLimits) as refused:
        require_shared_limits(make_config(), own, wait=waits)
    assert (refused.value.pool, refused.value.other_pool) == (own, other)
    assert own in str(refused.value)
    assert other in str(refused.value)


def test_nodes_that_share_no_limits_may_be_allowed() -> None:
    waits = Waits(make_node(pool="redis"))
    allowing = make_config(allow_unshared_limits=True)
    require_shared_limits(allowing, "memory", wait=waits)
    assert waits.seconds == 0


def test_a_killed_node_is_waited_for_three_beats() -> None:
    make_node()
    waits = Waits()
    require_shared_limits(make_config(), "memory", wait=waits)
    assert waits.seconds == 3


def test_a_running_node_yields_to_older_nodes_alone() -> None:
    older, newer = make_node(), make_node()
    waits = Waits(older, newer)
    require_shared_limits(make_config(), "memory", node_id=older.node_id, wait=waits)
    with pytest.raises(UnsharedLimits):
        require_shared_limits(
            make_config(), "memory", node_id=newer.node_id, wait=waits
        )
    require_shared_limits(make_config(), "memory", node_id="no row yet", wait=waits)


@pytest.mark.parametrize(
    "values",
    [
        # Larger than any process id (proc(5), pid_max).
        {"host": socket.gethostname(), "pid": 2**22 + 1},
        {"host": socket.gethostname(), "pid": os.getpid()},
        {"state": "draining"},
        {"state": "stopped"},
        {"state": "lost"},
        {"beat_at": timezone.now() - timedelta(seconds=60)},
    ],
)
def test_a_node_that_has_ended_is_not_waited_for(values: dict[str, Any]) -> None:
    waits = Waits(make_node(**values))
    require_shared_limits(make_config(), "memory", wait=waits, sees_part=lambda: False)
    assert waits.seconds == 0


@pytest.mark.parametrize("pid", [2**22 + 1, os.getpid()], ids=["none", "own"])
def test_a_container_looks_at_the_beats_of_its_neighbours(pid: int) -> None:
    """With the network of their host all have its name, and own process ids."""
    neighbour = make_node(host=socket.gethostname(), pid=pid)
    waits = Waits()
    require = partial(require_shared_limits, sees_part=lambda: True)
    require(make_config(), "memory", wait=waits)
    assert waits.seconds == 3
    with pytest.raises(UnsharedLimits):
        require(make_config(), "memory", wait=Waits(neighbour))


class LateDatabase(SwitchableDatabase):
    """A database that is away for two reads."""

    reads = 0

    async def read(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        self.reads += 1
        self.is_away = self.reads <= 2
        return await super().read(work, *args, **kwargs)


@pytest.mark.django_db(transaction=True)
async def test_a_database_that_is_away_puts_the_check_for_older_nodes_off() -> None:
    """A node that could not look yields to an older one as soon as it can."""
    database = LateDatabase()
    older = await database.write(make_node)
    newer = await database.write(make_node)
    config = make_config(node={"beat_seconds": 0.05, "node_timeout_seconds": 60})
    waits = Waits(older, newer)
    with pytest.raises(UnsharedLimits):
        async with asyncio.timeout(scale(10)):
            await require_no_older_node(
                config, "memory", database, newer.node_id, waits
            )
    assert database.reads == 3
    await database.close()


class LateRow(SwitchableDatabase):
    """A database in which the node that looks is recorded only after its first look."""

    reads = 0
    write_row: Any = None

    async def read(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        await super().read(work, *args, **kwargs)
        self.reads += 1
        if self.reads == 1:
            await self.write(self.write_row)


@pytest.mark.django_db(transaction=True)
async def test_a_node_whose_row_is_late_yields_to_an_older_one() -> None:
    """Two nodes that begin at once on a slow host see each other at a later look."""
    database = LateRow()
    older = await database.write(make_node)
    newer = "f" * 32
    database.write_row = partial(make_node_row, newer, host="elsewhere")
    config = make_config(node={"beat_seconds": 0.05, "node_timeout_seconds": 60})
    with pytest.raises(UnsharedLimits):
        async with asyncio.timeout(scale(10)):
            await require_no_older_node(config, "memory", database, newer, Waits(older))
    assert database.reads == 1
    await database.close()


@pytest.mark.django_db(transaction=True)
async def test_a_node_that_found_no_older_one_looks_no_more() -> None:
    database = LateRow()
    database.write_row = make_node
    config = make_config(node={"beat_seconds": 0.05, "node_timeout_seconds": 60})
    async with asyncio.timeout(scale(10)):
        await require_no_older_node(config, "memory", database, "no row yet", Waits())
    assert database.reads == 4
    await database.close()
