"""Test that a close by the transport reaches the consumer, the pool and the record."""

import asyncio
import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from connections.testing import (
    BINARY,
    TEXT,
    AttentiveClient,
    LiveServer,
    RawClient,
    Servers,
    SlowClient,
    build_frame,
    wait_until,
)
from connections.testing.waiting import scale

CONSUMERS = "tests.integration.consumers:application"
GENEROUS = {
    "rate_limit__messages_per_second": 1_000_000,
    "rate_limit__burst_messages": 1_000_000,
    "rate_limit__bytes_per_second": "1GB",
    "rate_limit__burst_bytes": "1GB",
}


@pytest.fixture
def seen(tmp_path: Path) -> Path:
    path = tmp_path / "seen"
    path.touch()
    return path


def start(servers: Servers, seen: Path, **config: object) -> LiveServer:
    """Start a server with a limit of one connection per address."""
    return servers.start(
        command="daphne",
        application=CONSUMERS,
        environment={"SEEN": str(seen), "LOG_FORMAT": "json"},
        config={
            "anonymous": "true",
            "max_connections_per_client": 1,
            "on_client_limit": "refuse",
            "node__beat_seconds": 0.1,
            **config,
        },
    )


def open_socket(server: LiveServer, path: str) -> Any:
    return RawClient.open(server.port, path, f"Origin: {server.url}")


def read_closed(server: LiveServer) -> list[tuple[str, int]]:
    query = (
        "select reason, close_code from connections_connection"
        " where closed_at is not null order by closed_at"
    )
    with contextlib.closing(sqlite3.connect(server.folder / "db.sqlite3")) as database:
        return database.execute(query).fetchall()


def was_told(seen: Path, text: str) -> bool:
    return text in seen.read_text().splitlines()


async def test_a_slow_consumer_is_recorded_and_its_slot_is_free(
    servers: Servers, seen: Path
) -> None:
    server = start(servers, seen, buffers__send_stall_seconds=0.5)
    origin = f"Origin: {server.url}"
    client = await SlowClient.open(server.port, "/broadcast/", origin)
    await client.send(build_frame(TEXT, b"10000 10000"))
    await wait_until(lambda: read_closed(server) == [("slow_consumer", 4208)])
    await wait_until(lambda: was_told(seen, "disconnect 4208"))
    again = await open_socket(server, "/broadcast/")
    await again.send(build_frame(TEXT, b"1 3"))
    assert await again.read_frame() == (BINARY, b"\0\0\0")


async def test_a_flood_beyond_the_consumer_is_recorded(
    servers: Servers, seen: Path
) -> None:
    """The code is 4129; disconnect() does not wait for 64 messages of 0.5 s."""
    server = start(servers, seen, buffers__receive_stall_seconds=0.2, **GENEROUS)
    client = await open_socket(server, "/slow/")
    await client.send(build_frame(TEXT, b"x") * 1000)
    assert (await client.read_close()).close_code == 4129
    await wait_until(lambda: read_closed(server) == [("rate_limited", 4129)], 3)
    await wait_until(lambda: was_told(seen, "disconnect 4129"), 3)


async def test_a_starved_consumer_gets_its_release_and_its_disconnect(
    servers: Servers, seen: Path
) -> None:
    """The client leaves with thirty seconds of work queued."""
    server = start(servers, seen, **GENEROUS)
    client = await open_socket(server, "/slow/")
    await client.send(build_frame(TEXT, b"x") * 60)
    await asyncio.sleep(0.2)
    client.reset()
    await wait_until(lambda: was_told(seen, "disconnect 1006"), 9)
    await wait_until(lambda: read_closed(server) == [("network", 1006)])
    assert "is cancelled" not in server.log()


async def test_a_client_that_closes_is_recorded_so(
    servers: Servers, seen: Path
) -> None:
    server = start(servers, seen)
    client = await open_socket(server, "/json/")
    await client.send(build_frame(8, (1001).to_bytes(2, "big")))
    assert (await client.read_close()).close_code == 1001
    await wait_until(lambda: read_closed(server) == [("closed", 1001)])


async def test_the_ref_that_a_client_was_shown_finds_its_flight_record(
    servers: Servers, seen: Path
) -> None:
    """The JSON log has one line for the close."""
    server = start(servers, seen, errors__budget=1)
    client = await open_socket(server, "/json/")
    await client.send(build_frame(TEXT, b'{"type": "crash", "token": "s3cr3t"}'))
    error = json.loads((await client.read_frame()).payload)
    bye = json.loads((await client.read_frame()).payload)
    assert (bye["type"], bye["ref"]) == ("bye", error["ref"])
    assert (await client.read_close()).close_code == 4500
    await client.send(build_frame(8, (4500).to_bytes(2, "big")))
    await wait_until(lambda: read_closed(server) == [("internal_error", 4500)])
    shown = json.loads(server.manage("connections", "show", error["ref"], "--json"))
    assert [one["event"] for one in shown["flight"]] == [
        "authorised",
        "slot_taken",
        "handler_failed",
        "end_asked",
        "left",
    ]
    assert shown["error_events"][0]["exception"] == "builtins.ArithmeticError"
    assert "s3cr3t" not in json.dumps(shown)
    lines = [json.loads(one) for one in server.log().splitlines() if one[:1] == "{"]
    (ended,) = (one for one in lines if one.get("event") == "connection_ended")
    assert ended["connection_id"] == shown["id"]
    assert (ended["reason"], ended["errors"]) == ("internal_error", 1)
    assert ended["node_id"] == shown["node"]


async def test_a_dead_client_gives_its_place_up(servers: Servers, seen: Path) -> None:
    pings = {"ping_interval_seconds": 0.3, "ping_timeout_seconds": scale(0.3)}
    server = start(servers, seen, **pings)
    await open_socket(server, "/json/")
    await wait_until(lambda: read_closed(server) == [("dead", 4201)])
    origin = f"Origin: {server.url}"
    again = await AttentiveClient.open(server.port, "/json/", origin)
    await again.send(build_frame(TEXT, b'{"type": "echo"}'))
    assert (await again.read_frame()).payload == b'{"type": "echo"}'
