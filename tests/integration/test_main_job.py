"""Test limits, sweeps and kicks on real sockets, with an independent client library."""

import asyncio
import json
from typing import Any

import pytest
from django.utils import timezone
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from connections.models import AccessToken, Connection
from connections.testing import (
    TEXT,
    Flooder,
    Servers,
    assert_closed,
    assert_evicted,
    build_frame,
    read_close,
    wait_until,
)
from connections.testing.waiting import scale
from tests.integration.echo import (
    ECHO,
    QUICK,
    assert_alive,
    on_both,
    open_echo,
    opened,
    read_rows,
)
from tests.project import ProjectServers


@pytest.mark.parametrize("command", ["serve", "daphne", "uvicorn"])
async def test_the_sixth_connection_evicts_the_first(
    shared_servers: ProjectServers, command: str
) -> None:
    server = shared_servers.share(command=command, config=QUICK)
    token = server.create_token("of six")
    async with opened(server, token, 6) as connections:
        await assert_evicted(connections[0])
        for connection in connections[1:]:
            await assert_alive(connection)
        await wait_until(
            lambda: (
                read_rows(
                    server,
                    "select reason, close_code from connections_connection"
                    " where closed_at is not null and client_id = 'of six'",
                )
                == [("evicted", 4005)]
            )
        )


@on_both
async def test_fifty_at_once_leave_exactly_five(
    shared_servers: ProjectServers, command: str
) -> None:
    server = shared_servers.share(command=command, config=QUICK)
    token = server.create_token("of fifty")
    for _ in range(4):
        connections = await asyncio.gather(
            *(open_echo(server, token) for _ in range(50))
        )
        await wait_until(lambda opened=connections: count_open(opened) <= 5)
        await asyncio.sleep(0.3)
        assert count_open(connections) == 5
        await asyncio.gather(*(one.close() for one in connections))


def count_open(connections: list[ClientConnection]) -> int:
    return sum(one.close_code is None for one in connections)


@on_both
async def test_limits_of_size_and_rate(servers: Servers, command: str) -> None:
    rate = {
        "rate_limit__burst_messages": 10,
        "rate_limit__messages_per_second": 5,
        "rate_limit__tolerance_seconds": 1,
    }
    server = servers.start(command=command, config={**QUICK, **rate})
    token = server.create_token()
    async with open_echo(server, token) as big:
        await big.send("x" * 1_000_001)
        assert (await read_close(big))[0] in (4013, 1009)
    fast = await Flooder.open(server.port, ECHO, f"Authorization: Bearer {token}")
    await fast.flood(build_frame(TEXT, b"x"), per_second=200, seconds=30)
    await assert_closed(fast, 4129)


@on_both
async def test_who_is_refused_and_how(
    shared_servers: ProjectServers, command: str
) -> None:
    server = shared_servers.share(command=command, config=QUICK)
    token = server.create_token("refused")
    with pytest.raises(InvalidStatus) as refused:
        await open_echo(server, token, origin="https://evil.example")
    assert refused.value.response.status_code == 403
    with pytest.raises(InvalidStatus) as refused:
        await open_echo(server, token, path="/ws/nowhere/")
    assert refused.value.response.status_code in (403, 404)
    assert "Traceback" not in server.log()
    with pytest.raises(InvalidStatus):
        await open_echo(server, None)
    wrong = await open_echo(server, "wrong")
    assert (await read_close(wrong))[0] == 4001
    own = await open_echo(server, token, origin=server.url)
    await assert_alive(own)
    await own.close()
    by_subprotocol = await connect(
        server.ws_url + ECHO,
        subprotocols=[Subprotocol(f"bearer.{token}"), Subprotocol("chat")],
    )
    assert by_subprotocol.subprotocol == "chat"
    await assert_alive(by_subprotocol)
    await by_subprotocol.close()


async def test_revoked_and_expired_tokens(shared_servers: ProjectServers) -> None:
    server = shared_servers.share(command="serve", config=QUICK)
    expiring = server.create_token("expired", "--expires-in", "0.001")
    revoked = server.create_token("revoked")
    tokens = AccessToken.objects.filter(client_id="revoked")
    server.run(tokens.update, revoked_at=timezone.now())
    assert (await read_close(await open_echo(server, expiring)))[0] == 4100
    assert (await read_close(await open_echo(server, revoked)))[0] == 4009


async def test_idle_is_swept_by_a_separate_process(servers: Servers) -> None:
    server = servers.start(
        config={**QUICK, "idle_timeout_seconds": 300},
        arguments=("--no-sweeper",),
    )
    token = server.create_token()
    async with opened(server, token, 2) as (idle, active):
        staying = asyncio.create_task(stay_active(active))
        idle_seconds = scale(1.5)
        await asyncio.sleep(idle_seconds)
        arguments = ("sweep_idle_connections", "--once", "--json")
        swept = await asyncio.to_thread(
            server.manage, *arguments, "--idle-seconds", str(idle_seconds)
        )
        assert json.loads(swept)["idle_requested"] >= 1
        assert await read_close(idle) == (4300, "idle")
        staying.cancel()
        await asyncio.wait([staying])
        await assert_alive(active)


async def stay_active(connection: ClientConnection) -> None:
    while True:
        await assert_alive(connection)
        await asyncio.sleep(0.05)


@on_both
async def test_the_node_ends_its_own_idle_connections(
    servers: Servers, command: str
) -> None:
    server = servers.start(
        command=command, config={**QUICK, "idle_timeout_seconds": 0.5}
    )
    token = server.create_token()
    async with opened(server, token, 1) as (idle,):
        assert await read_close(idle) == (4300, "idle")


@on_both
async def test_a_killed_server_leaves_no_open_rows(
    servers: Servers, command: str
) -> None:
    node_timeout_seconds = scale(1)
    config = {**QUICK, "node__node_timeout_seconds": node_timeout_seconds}
    server = servers.start(command=command, config=config)
    token = server.create_token()
    connections = [await open_echo(server, token) for _ in range(3)]
    open_rows = "select count(*) from connections_connection where closed_at is null"
    await wait_until(lambda: read_rows(server, open_rows) == [(3,)])
    server.kill()
    for connection in connections:
        await read_close(connection)
    again = servers.start(
        command=command, config=config, folder=server.folder, port=server.port
    )
    survivor = await open_echo(again, token)

    def reasons() -> Any:
        return read_rows(
            again, "select reason, closed_at is null from connections_connection"
        )

    await asyncio.sleep(node_timeout_seconds + 0.2)
    again.manage("sweep_idle_connections", "--once")
    await wait_until(lambda: sorted(reasons()) == [("", 1), *[("lost", 0)] * 3])
    await assert_alive(survivor)
    await survivor.close()


@on_both
async def test_an_operator_lists_and_kicks(
    shared_servers: ProjectServers, command: str
) -> None:
    server = shared_servers.share(command=command, config=QUICK)
    alice, bob = server.create_token("alice"), server.create_token("bob")
    async with opened(server, alice, 2) as of_alice, opened(server, bob, 1) as of_bob:
        known = Connection.objects.filter(client_id__in=("alice", "bob"))
        await wait_until(lambda: server.run(known.count) == 3)
        listed = json.loads(server.manage("connections", "list", "--json"))
        clients = [one["client"] for one in listed]
        assert (clients.count("alice"), clients.count("bob")) == (2, 1)
        server.manage("connections", "kick", "--client", "alice")
        for connection in of_alice:
            assert await read_close(connection) == (4009, "kicked")
        await assert_alive(of_bob[0])
        # The close request is spent: later connections stay.
        await asyncio.sleep(0.5)
        async with opened(server, alice, 1) as (returned,):
            await asyncio.sleep(0.5)
            await assert_alive(returned)


async def test_nothing_serves_on_a_bad_configuration(servers: Servers) -> None:
    server = servers.start(
        config={"idle_timeout_seconds": "soon", "max_message_size": "huge"},
        is_ready=False,
    )
    assert server.wait() != 0
    assert "websocket.idle_timeout_seconds" in server.log()
    assert "websocket.max_message_size" in server.log()
