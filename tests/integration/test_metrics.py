"""Test /metrics of live processes, and the minute rollups of a sweeper."""

import asyncio
import contextlib
import sqlite3
import urllib.error
import urllib.request
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import ClientConnection, connect

from connections.testing import LiveServer, Servers, free_port, wait_until
from connections.testing.waiting import scale

QUICK = {"node__beat_seconds": 0.1, "ping_interval_seconds": 0.2}


def open_echo(server: LiveServer, token: str) -> Any:
    headers = {"Authorization": f"Bearer {token}"}
    return connect(server.ws_url + "/ws/echo/", additional_headers=headers)


def scrape(url: str, **headers: str) -> dict[tuple[str, ...], float]:
    """Return the samples by name and label values."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"{url}/metrics", headers=names)
    with urllib.request.urlopen(request, timeout=scale(10)) as response:
        text = response.read().decode()
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def scrape_until(server: LiveServer, sample: tuple[str, ...]) -> Any:
    """Return the samples once one of them is more than 0."""

    async def look() -> Any:
        samples = await asyncio.to_thread(scrape, server.url)
        return samples if samples.get(sample, 0) > 0 else None

    return await wait_until(look, 20)


async def say(connection: ClientConnection, count: int) -> None:
    for _ in range(count):
        await connection.send("hello")
        await connection.recv()


@pytest.mark.parametrize("command", ["serve", "daphne", "uvicorn"])
async def test_every_server_exports_its_metrics(servers: Servers, command: str) -> None:
    server = servers.start(command=command, config=QUICK)
    async with open_echo(server, server.create_token()) as connection:
        await say(connection, 10)
        during = await scrape_until(
            server, ("active_websocket_connections", "ws/echo/")
        )
        assert during["websocket_messages_total", "in", "ws/echo/"] == 10
        assert during["websocket_message_bytes_total", "out", "ws/echo/"] == 50
        assert during["websocket_handler_duration_seconds_count",] == 10
        assert 0 < during["websocket_message_rate", "in"] <= 10
        if command != "uvicorn":
            await scrape_until(server, ("websocket_ping_round_trip_seconds_count",))
    ended = ("websocket_disconnects_total", "closed")
    after = await scrape_until(server, ended)
    assert after["active_websocket_connections", "ws/echo/"] == 0
    assert after["websocket_connection_duration_count",] == 1
    with pytest.raises(urllib.error.HTTPError) as refused:
        scrape(server.url, X_Forwarded_For="127.0.0.1")
    assert refused.value.code == 403
    refused.value.close()


async def test_processes_that_share_a_port_are_scraped_apart(servers: Servers) -> None:
    ports = [free_port(), free_port()]
    first = servers.start(
        arguments=("--reuse-port", "--metrics-port", str(ports[0])),
        config={"allow_unshared_limits": "true"},
    )
    servers.start(
        arguments=("--reuse-port", "--metrics-port", str(ports[1])),
        config={"allow_unshared_limits": "true"},
        folder=first.folder,
        port=first.port,
    )
    token = first.create_token()
    opened = [await open_echo(first, token) for _ in range(4)]
    urls = [f"http://127.0.0.1:{port}" for port in ports]

    async def count_open() -> bool:
        try:
            scraped = [await asyncio.to_thread(scrape, url) for url in urls]
        except OSError:
            return False  # The one that serves first says for both that it is ready.
        found = [one["active_websocket_connections", "ws/echo/"] for one in scraped]
        return sum(found) == 4

    await wait_until(count_open, 30)
    for connection in opened:
        await connection.close()


async def test_counts_of_a_killed_node_are_rolled_up(
    servers: Servers,
) -> None:
    server = servers.start(config=QUICK, arguments=("--no-sweeper",))
    token = server.create_token()
    async with open_echo(server, token) as connection:
        await say(connection, 5)

    def read(query: str) -> Any:
        path = server.folder / "db.sqlite3"
        with contextlib.closing(sqlite3.connect(path)) as database:
            return database.execute(query).fetchone()

    counted = "counters->>'messages_in', counters->>'$.ends.closed'"
    query = f"select {counted} from connections_node"
    await wait_until(lambda: read(query) == (5, 1), 20)
    server.kill()
    server.environment["WEBSOCKET__NODE__NODE_TIMEOUT_SECONDS"] = "1"
    await asyncio.sleep(1.5)
    server.manage("sweep_idle_connections", "--once", "--force")
    sums = "sum(messages_in), sum(messages_out), sum(opened), sum(ended)"
    rolled = read(f"select {sums} from connections_minuterollup")
    assert rolled == (5, 5, 1, 1)
