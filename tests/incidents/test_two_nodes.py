"""Incidents on two nodes with Redis: Redis down, a node killed or hanging, a deploy."""

import signal
from collections.abc import Iterator

import pytest

from connections.testing import LiveServer, read_close, wait_until
from connections.testing.waiting import scale
from tests.incidents.desk import (
    CONFIG,
    Desk,
    make_environment,
    sign_in,
    start_sweeper,
    takes_pictures,
)
from tests.integration.echo import assert_alive, freeze, open_echo, opened
from tests.integration.redis_process import RedisProcess
from tests.project import ProjectServers

GRACE_SECONDS = round(scale(4))
"""How long staff can see that a node drains."""


class Cluster:
    """Two nodes, a sweeper, their Redis, and staff who look through the second."""

    def __init__(self, servers: ProjectServers) -> None:
        self.redis = RedisProcess().start()
        self.first, self.second = servers.start_pair(
            config={
                **CONFIG,
                "drain__grace_seconds": GRACE_SECONDS,
                # A picture of the drain takes longer to take than the drain.
                "drain__delay_seconds": 10 if takes_pictures() else scale(2),
            },
            environment=make_environment(REDIS_URL=self.redis.url),
            arguments=("--no-sweeper",),
        )
        self.sweeper = start_sweeper(servers, self.second)
        self._session = sign_in(self.second)

    def desk(self, log_of: LiveServer) -> Desk:
        """Return the view of staff, with the log of a process."""
        return Desk(server=self.second, session=self._session, log_of=log_of)


@pytest.fixture(scope="module")
def cluster(shared_servers: ProjectServers) -> Iterator[Cluster]:
    started = Cluster(shared_servers)
    yield started
    started.redis.remove()


async def test_redis_down(cluster: Cluster) -> None:
    desk = cluster.desk(cluster.second)
    cluster.redis.kill()
    try:
        await desk.wait_named(
            "Redis down",
            dashboard=r"▲ critical pool degraded since .* node \S+: .*failed.* now 2",
            log=r"The shared pool is out of reach \(.*failed",
            alerts=r"firing +critical +pool_degraded +2 nodes .*: node \S+: .*failed",
            reasons="degraded the shared pool is unavailable; policy",
        )
        await desk.take_pictures("redis-down")
        alerts, reasons = desk.run_runbook("pool_degraded")
        assert "pool_degraded" in alerts and "shared pool is unavailable" in reasons
    finally:
        cluster.redis.start()
    await desk.wait_named("Redis back", log="The shared pool answers again")
    resolved = "resolved  critical  pool_degraded"
    await wait_until(lambda: resolved in desk.read_alerts())


async def test_a_hanging_node(cluster: Cluster) -> None:
    desk = cluster.desk(cluster.sweeper)
    name = rf"\S+:{cluster.first.pid}"
    await desk.wait_named("before", dashboard=rf"{name} serving")
    await freeze(cluster.first, cluster.second)
    try:
        await desk.wait_named(
            "node hanging",
            dashboard=rf"▲ critical dead node since .* node {name}, last beat \d\d:",
            log=rf"Node {name} \(\w+\) is dead: recorded as lost",
            alerts=rf"firing +critical +dead_node .*: node {name}, last beat",
        )
        await desk.take_pictures("node-hanging")
        (alerts,) = desk.run_runbook("dead_node")
        assert str(cluster.first.pid) in alerts
    finally:
        cluster.first.signal(signal.SIGCONT)
    back = rf"{name} serving"
    await desk.wait_named("node continued", dashboard=back)


async def test_a_killed_node(cluster: Cluster) -> None:
    desk = cluster.desk(cluster.sweeper)
    token = cluster.first.create_token("visitor")
    name = rf"\S+:{cluster.first.pid}"
    await desk.wait_named("before", dashboard=rf"{name} serving")
    visitor = await open_echo(cluster.first, token)
    await assert_alive(visitor)
    cluster.first.kill()
    try:
        assert (await read_close(visitor))[0] == 1006
        await desk.wait_named(
            "node killed",
            dashboard=rf"▲ critical dead node since .* node {name}, last beat \d\d:",
            log=rf"Node {name} \(\w+\) is dead: recorded as lost",
            alerts=rf"firing +critical +dead_node .*: node {name}, last beat",
        )
        await desk.take_pictures("node-killed")
        (alerts,) = desk.run_runbook("dead_node")
        assert str(cluster.first.pid) in alerts
    finally:
        cluster.first.start()


async def test_a_deploy(cluster: Cluster) -> None:
    desk = cluster.desk(cluster.first)
    token = cluster.first.create_token("reader")
    name = rf"\S+:{cluster.first.pid}"
    await desk.wait_named("before", dashboard=rf"{name} serving")
    async with opened(cluster.first, token, 1) as (page,):
        await assert_alive(page)
        cluster.first.signal(signal.SIGTERM)
        await desk.wait_named(
            "deploy",
            dashboard=rf"draining draining node {name}: \d connections? left, new one",
        )
        await desk.take_pictures("deploy")
        handover = f"1 connection to hand over within {GRACE_SECONDS} s"
        log = f"The node drains: {handover}"
        await desk.wait_named("deploy", log=log)
        assert (await read_close(page))[0] == 4200
    assert cluster.first.wait() == 0
    cluster.first.start()
    await desk.wait_named("deployed", dashboard=rf"{name} stopped")
