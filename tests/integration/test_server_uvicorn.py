"""Test the guarantees under uvicorn; the log names those it cannot enforce."""

import asyncio
import contextlib
import json
import signal
import sqlite3
from pathlib import Path

import pytest
import websockets

from connections.testing import (
    LiveServer,
    RawClient,
    Servers,
    assert_evicted,
    read_close,
    wait_until,
)

CONSUMERS = "tests.integration.consumers:application"


@pytest.fixture
def server(servers: Servers, tmp_path: Path) -> LiveServer:
    return servers.start(
        command="uvicorn",
        application=CONSUMERS,
        environment={"SEEN": str(tmp_path / "seen")},
        config={
            "anonymous": "true",
            "max_connections_per_client": 3,
            "drain__grace_seconds": 2,
            "node__beat_seconds": 0.1,
        },
    )


def open_socket(server: LiveServer, path: str) -> websockets.connect:
    return server.connect(path, origin=server.url)


async def test_unenforced_guarantees_are_logged_at_start(
    server: LiveServer,
) -> None:
    assert "Under uvicorn these are not enforced" in server.log()
    assert "Reactor" not in server.log()


async def test_probes_are_answered_ahead_of_the_check_of_host(
    server: LiveServer,
) -> None:
    for path in ("/livez", "/readyz"):
        client = await RawClient.connect(server.port)
        await client.send(f"GET {path} HTTP/1.1\r\nHost: elsewhere\r\n\r\n".encode())
        status, _, body = await client.read_response()
        assert (status, json.loads(body)["status"]) == (200, "ok")


async def test_the_oldest_is_evicted_and_a_route_that_is_none_is_404(
    server: LiveServer,
) -> None:
    clients = [await open_socket(server, "/json/") for _ in range(4)]
    await assert_evicted(clients[0])
    with pytest.raises(websockets.InvalidStatus) as caught:
        await open_socket(server, "/nowhere/")
    assert caught.value.response.status_code == 404
    await asyncio.gather(*(ws.close() for ws in clients))


async def test_a_stop_releases_and_records_every_connection(
    server: LiveServer, tmp_path: Path
) -> None:
    clients = [await open_socket(server, "/json/") for _ in range(3)]
    server.signal(signal.SIGTERM)
    for closing in await asyncio.gather(*map(read_close, clients)):
        assert closing.code == 4200
    await asyncio.to_thread(server.wait, 20)

    def count_closed() -> int:
        query = (
            "select count(*) from connections_connection where closed_at is not null"
        )
        path = server.folder / "db.sqlite3"
        with contextlib.closing(sqlite3.connect(path)) as database:
            count: int = database.execute(query).fetchone()[0]
            return count

    await wait_until(lambda: count_closed() == 3)
    assert (tmp_path / "seen").read_text().count("disconnect") == 3
