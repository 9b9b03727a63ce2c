"""Incidents on one node: a full pool, a flood, an error storm and a drain."""

import json
from typing import Any

import pytest

from connections.models import Node, NodeCommand
from connections.testing import LiveServer, read_close, wait_until
from tests.incidents.desk import (
    CONFIG,
    Desk,
    make_environment,
    sign_in,
    start_sweeper,
)
from tests.integration.echo import assert_alive, open_echo, opened, read_rows
from tests.project import ProjectServers

SLOTS = 6


@pytest.fixture(scope="module")
def served(shared_servers: ProjectServers) -> tuple[LiveServer, str]:
    """A node with six slots and a sweeper, and a session of staff."""
    server = shared_servers.start(
        config={
            **CONFIG,
            "max_total_connections": SLOTS,
            "max_connections_per_client": 3,
            "drain__grace_seconds": 4,
        },
        environment=make_environment(),
        arguments=("--no-sweeper",),
    )
    start_sweeper(shared_servers, server)
    return server, sign_in(server)


@pytest.fixture
def desk(served: tuple[LiveServer, str]) -> Desk:
    server, session = served
    return Desk(server=server, session=session)


async def test_a_full_pool(desk: Desk) -> None:
    alice, bob, carol = (desk.server.create_token(f"{one}-full") for one in "abc")
    async with opened(desk.server, alice, 3), opened(desk.server, bob, 3):
        for _ in range(20):
            late = await open_echo(desk.server, carol)
            assert await read_close(late) == (4103, "pool_full")
        sentence = r"\d+ refused in the last minute, 6 of 6 slots are taken"
        holders = "2 clients hold 3 each"
        await desk.wait_named(
            "pool full",
            dashboard=rf"▲ critical pool full since .* {sentence}, {holders}",
            log=rf"The pool is full: {sentence}, {holders}",
            alerts=rf"firing +critical +pool_full .*/min .*: {sentence}",
            reasons=f"degraded the pool is full: {sentence}",
        )
        await desk.take_pictures("pool-full")
        await desk.wait_named("refusals by reason", dashboard=r"pool.full 20")
        listed, reasons = desk.run_runbook("pool_full")
        assert listed.count("a-full") == listed.count("b-full") == 3
        assert "the pool is full" in reasons


async def test_an_error_storm(desk: Desk) -> None:
    token = desk.server.create_token("shop")
    refs = []
    async with desk.server.connect("/ws/orders/", token) as page:
        for _ in range(8):
            await page.send(json.dumps({"type": "order", "article": "pear"}))
            answer: dict[str, Any] = json.loads(await page.recv())
            assert answer["type"] == "error"
            refs.append(answer["ref"])
        cause = r"KeyError at incidents/application.py/handle_order:\d+ \(\d+ times\)"
        await desk.wait_named(
            "error storm",
            dashboard=rf"▲ critical high error rate since .* {cause} now \d+",
            log=r"A handler failed .*KeyError",
            alerts=rf"firing +critical +high_error_rate .*%.*: {cause}",
        )
        await desk.take_pictures("error-storm")
    (alerts,) = desk.run_runbook("high_error_rate")
    assert "handle_order" in alerts
    assert "handle_order" in desk.server.call("connections", "show", refs[0])


async def test_a_flood(desk: Desk) -> None:
    token = desk.server.create_token("flooder")
    async with desk.server.connect("/ws/echo/", token) as flooder:
        for _ in range(5000):
            await flooder.send("x")
            if flooder.close_code is not None:
                break
        assert await read_close(flooder) == (4129, "rate_limited")
    await desk.wait_named(
        "flood",
        dashboard=r"Clients flooder \d{2,} .* 4129 rate_limited 1",
        log=r"of flooder ended .*: rate_limited \(4129\); messages \d{2,} in",
    )
    top = "section[aria-labelledby=live-top-title]"
    await desk.take_pictures("flood", top, top)
    top_clients = desk.server.call("connections", "top", "--by", "messages")
    assert "flooder" in top_clients
    query = "select connection_id from connections_connection where client_id='flooder'"
    await wait_until(lambda: read_rows(desk.server, query))
    ((connection_id,),) = read_rows(desk.server, query)
    shown = desk.server.call("connections", "show", connection_id)
    assert "rate_limited" in shown and "flooder" in shown


def post_command(server: LiveServer, kind: str) -> None:
    """Post a command to the node, as the dashboard does."""

    def post() -> None:
        node = Node.objects.live().get()
        NodeCommand.objects.create(
            kind=kind, target="node", value=node.node_id, author="duty"
        )

    server.run(post)


async def test_a_drain(desk: Desk) -> None:
    token = desk.server.create_token("stayer")
    async with desk.server.connect("/ws/echo/", token) as page:
        await assert_alive(page)
        post_command(desk.server, "drain")
        await desk.wait_named(
            "drain",
            dashboard=r"draining draining node \S+: [01] connections? left, new ones",
            log=r"received the command drain from duty(.|\n)*The node drains: 1 conn",
            reasons="^draining",
        )
        await desk.take_pictures("drain")
        assert (await read_close(page))[0] == 4200
        post_command(desk.server, "serve")
        await wait_until(lambda: desk.read_reasons().split()[0] != "draining")
