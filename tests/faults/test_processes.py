"""Test that other nodes and sweepers take over from killed or frozen ones."""

import signal

from connections.testing import LiveServer, Servers, read_close, wait_until
from connections.testing.waiting import scale
from tests.integration.cluster import count_live, start_pair
from tests.integration.echo import (
    QUICK,
    assert_alive,
    freeze,
    open_echo,
    opened,
    read_rows,
)
from tests.integration.redis_process import RedisProcess

# A node that stands still for so long on a slow machine is recorded as lost.
CONFIG = {**QUICK, "node__node_timeout_seconds": scale(2)}
ENDS = (
    "select client_id, reason, count(*) from connections_connection"
    " where closed_at is not null group by 1, 2 order by 1, 2"
)


def start_sweeper(servers: Servers, server: LiveServer) -> LiveServer:
    return servers.start(
        folder=server.folder,
        command="sweep_idle_connections",
        arguments=("--interval", "0.2"),
        config=CONFIG,
        is_ready=False,
    )


async def test_a_killed_node_costs_its_own_clients_alone(
    servers: Servers, redis_process: RedisProcess
) -> None:
    """Its clients reconnect elsewhere; unclaimed slots expire with the lease."""
    first, second = start_pair(servers, redis_process, CONFIG)
    start_sweeper(servers, first)
    alice, bob = first.create_token(), first.create_token("bob")
    async with (
        opened(first, alice, 3) as early,
        opened(first, bob, 2) as gone,
        opened(second, alice, 2) as there,
    ):
        await wait_until(
            lambda: (
                read_rows(first, "select count(*) from connections_connection")
                == [(7,)]
            )
        )
        first.kill()
        for connection in (*early, *gone):
            assert (await read_close(connection))[0] == 1006
        # New connections take the slots of dead ones, not of live ones.
        async with opened(second, alice, 3) as returned:
            for connection in (*there, *returned):
                await assert_alive(connection)
            with redis_process.connect() as client:
                await wait_until(lambda: count_live(client) == 5)
            expected = [("alice", "lost", 3), ("bob", "lost", 2)]
            await wait_until(lambda: read_rows(second, ENDS) == expected)
            for connection in (*there, *returned):
                await assert_alive(connection)


async def test_whichever_sweeper_dies_or_sleeps_another_goes_on(
    servers: Servers,
) -> None:
    """A sweeper that resumes records no node as lost before observing it anew."""
    config = {**CONFIG, "allow_unshared_limits": "true"}
    server = servers.start(config=config, arguments=("--no-sweeper",))
    token = server.create_token()

    def find_holder() -> str:
        rows = read_rows(server, "select holder_id from connections_sweep")
        return str(rows[0][0]) if rows else ""

    async def lose_a_node(lost: int) -> None:
        """Kill a node with a connection; return when the loss is recorded."""
        victim = servers.start(
            config=config, arguments=("--no-sweeper",), folder=server.folder
        )
        async with open_echo(victim, token) as connection:
            total = "select count(*) from connections_connection"
            await wait_until(lambda: read_rows(server, total) == [(1 + lost,)])
            victim.kill()
            assert (await read_close(connection))[0] == 1006
        await wait_until(
            lambda: (
                read_rows(
                    server,
                    "select count(*) from connections_connection where reason = 'lost'",
                )
                == [(lost,)]
            )
        )

    async with opened(server, token, 1) as (bystander,):
        sleeper = start_sweeper(servers, server)
        first = await wait_until(find_holder)
        other = start_sweeper(servers, server)
        await freeze(sleeper, server)
        await lose_a_node(1)
        second = find_holder()
        assert second not in ("", first)
        sleeper.signal(signal.SIGCONT)
        other.kill()
        await lose_a_node(2)
        assert find_holder() == first
        await assert_alive(bystander)
        alive = f"select state, generation from connections_node where pid={server.pid}"
        assert read_rows(server, alive) == [("serving", 1)]
