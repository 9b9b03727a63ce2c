"""Test that SIGTERM under load notifies every client and keeps every acked entry."""

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Origin

from connections.testing import (
    TEXT,
    RawClient,
    Servers,
    build_frame,
    read_close,
    wait_until,
)
from connections.testing.waiting import scale
from tests.faults.databases import Store
from tests.integration.echo import QUICK
from tests.integration.redis_process import RedisProcess
from tests.integration.session_client import SessionClient

GRACE_SECONDS = scale(1.5)
EXIT_SECONDS = 28
"""The time for the exit: the grace, and what ends a process that is stuck."""

CONFIG = {
    **QUICK,
    "anonymous": "true",
    "max_connections_per_client": 100,
    "max_session_history": 1000,
    "sessions__max_open_streams": 100,
    "sessions__max_open_streams_per_client": 1000,
    "drain__grace_seconds": GRACE_SECONDS,
    # A node that stands still for so long on a slow machine is recorded as lost.
    "node__node_timeout_seconds": scale(1),
}
ENDLESS = {"text": "count", "count": 10_000, "pause_seconds": 0.05}


async def open_raw(
    port: int, path: str, *, receive_bytes: int | None = None
) -> RawClient:
    origin = f"Origin: http://127.0.0.1:{port}"
    return await RawClient.open(port, path, origin, receive_bytes=receive_bytes)


async def talk(page: SessionClient) -> None:
    """Send one message after another while the connection is open."""
    number = 0
    while page.is_connected:
        # No more messages than a reconnect may send at once.
        if len(page.waiting) < 10:
            await page.say({"text": str(number)})
            number += 1
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("are_services_stopped", [False, True])
async def test_sigterm_in_the_middle_of_everything(
    servers: Servers,
    postgres_store: Store,
    redis_process: RedisProcess,
    tmp_path: Path,
    *,
    are_services_stopped: bool,
) -> None:
    """
    Handshakes at every stage, a stream, a stuck handler, a client that reads nothing.

    Also with a database and a Redis that stand still: the process ends in time, with
    0, and no ack was a lie.
    """
    postgres = postgres_store.postgres
    assert postgres is not None
    seen = tmp_path / "seen"
    seen.touch()
    environment = {
        **postgres_store.environment,
        "REDIS_URL": redis_process.url,
        "SEEN": str(seen),
        "SESSIONS_RESPONDER": "tests.integration.responders.Counting",
    }
    server = servers.start(
        command="daphne",
        application="tests.faults.applications:application",
        config=CONFIG,
        environment=environment,
    )
    token = await asyncio.to_thread(server.create_token)
    listening, talking = SessionClient(token), SessionClient(token)
    await listening.connect(server)
    await listening.say(ENDLESS)
    await listening.wait(lambda: 2 in listening.entries)
    talking.session_id = listening.session_id
    await talking.connect(server)
    chatter = asyncio.create_task(talk(talking))
    connections: list[ClientConnection] = [
        await connect(
            f"{server.ws_url}/json/",
            origin=Origin(server.url),
            open_timeout=scale(20),
        )
        for _ in range(5)
    ]
    stuck = await open_raw(server.port, "/stuck/")
    await stuck.send(build_frame(TEXT, b"stubborn"))
    deaf = await open_raw(server.port, "/broadcast/", receive_bytes=4096)
    await deaf.send(build_frame(TEXT, b"30 100000"))
    await wait_until(lambda: "stuck" in seen.read_text())
    await wait_until(lambda: len(talking.acked) > 5)
    begun = await RawClient.connect(server.port)
    await begun.send(b"GET /json/ HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    hesitating = asyncio.create_task(open_raw(server.port, "/hesitant/"))
    await wait_until(lambda: "hesitates" in seen.read_text())
    if are_services_stopped:
        postgres.pause()
        redis_process.pause()
    server.signal(signal.SIGTERM)
    assert await asyncio.to_thread(server.wait, EXIT_SECONDS) == 0
    for connection in connections:
        assert await read_close(connection) == (4200, "draining")
    for page in (listening, talking):
        await page.wait_disconnected()
    await chatter
    with contextlib.suppress(OSError):
        (await hesitating).close()
    if are_services_stopped:
        postgres.resume()
        redis_process.resume()
    acked = dict(talking.acked)
    shared: dict[str, Any] = {
        "config": CONFIG,
        "environment": environment,
        "folder": server.folder,
    }
    servers.start(
        command="sweep_idle_connections",
        arguments=("--interval", "0.3"),
        is_ready=False,
        **shared,
    )
    again = servers.start(arguments=("--no-sweeper",), **shared)
    for page in (listening, talking):
        await page.return_to(again)
        await page.wait_acked()
    logged = postgres_store.ask(
        'select key, "offset" from sessions_history_appendkey'
        f" where session_id = '{talking.session_id}'"
    )
    assert acked.items() <= dict(logged).items()
    offsets = sorted(talking.acked.values())
    await listening.wait(lambda: listening.last_offset >= offsets[-1])
    assert len(set(offsets)) == len(offsets)
    # The node records them, or the sweeper after the node's end.
    await listening.wait(
        lambda: listening.entries[2]["state"] == "interrupted", seconds=40
    )
    for page in (listening, talking):
        await page.cut()
    await wait_until(
        lambda: (
            postgres_store.ask(
                "select count(*) from connections_connection where closed_at is null"
            )
            == [(0,)]
        )
    )
