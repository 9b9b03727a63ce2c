"""Test that a stopping server hands over every client."""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.typing import Origin

from connections.testing import LiveServer, RawClient, Servers, free_port, wait_until
from connections.testing.waiting import scale
from tests.integration.seen import read_seen

CONSUMERS = "tests.integration.consumers:application"
RAW = "tests.integration.applications:application"
_TCP_LISTEN = "0A"
MANY = {"max_total_connections": 3000, "max_connections_per_client": 3000}


def start(servers: Servers, seen: Path, **options: Any) -> LiveServer:
    """Start a server whose clients need no token."""
    config = {"anonymous": "true", "node__beat_seconds": 0.2, **MANY}
    config |= options.pop("config", {})
    return servers.start(
        command=options.pop("command", "daphne"),
        application=options.pop("application", CONSUMERS),
        environment={"SEEN": str(seen)},
        config=config,
        **options,
    )


@pytest.fixture
def seen(tmp_path: Path) -> Path:
    path = tmp_path / "seen"
    path.touch()
    return path


def open_socket(server: LiveServer, path: str) -> Any:
    return websockets.connect(
        server.ws_url + path, origin=Origin(server.url), open_timeout=scale(20)
    )


async def read_to_close(ws: ClientConnection) -> tuple[list[Any], int, float]:
    """Return the messages, the close code and the time of the close."""
    messages = []
    with contextlib.suppress(websockets.ConnectionClosed):
        while True:
            messages.append(await ws.recv())
    return messages, ws.close_code or 0, time.monotonic()


async def read_readyz(server: LiveServer) -> int:
    client = await RawClient.connect(server.port)
    await client.send(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    status, _, _ = await client.read_response()
    client.close()
    return status


async def is_refused(server: LiveServer) -> bool:
    try:
        client = await RawClient.connect(server.port)
    except (ConnectionRefusedError, ConnectionResetError):
        return True  # Reset: it waited in the queue of the port that closed.
    client.close()
    return False


@pytest.mark.parametrize(
    ("command", "number"),
    [("serve", signal.SIGTERM), ("daphne", signal.SIGTERM), ("daphne", signal.SIGINT)],
)
async def test_a_thousand_clients_leave_within_the_grace(
    servers: Servers, seen: Path, command: str, number: int
) -> None:
    """The closes are spread over the grace period and recorded; the exit code is 0."""
    grace_seconds = scale(3)
    server = start(
        servers,
        seen,
        command=command,
        application="orchestra.asgi:application",
        config={"drain__grace_seconds": grace_seconds, "echo_endpoint": "true"},
    )
    gate = asyncio.Semaphore(50)

    async def connect() -> ClientConnection:
        async with gate:
            ws: ClientConnection = await open_socket(server, "/ws/echo/")
            return ws

    clients = await asyncio.gather(*(connect() for _ in range(1000)))
    reading = [asyncio.create_task(read_to_close(ws)) for ws in clients]
    server.signal(number)
    ended = await asyncio.gather(*reading)
    code = await asyncio.to_thread(server.wait)
    assert code == 0
    assert {code for _, code, _ in ended} == {4200}
    moments = [moment for _, _, moment in ended]
    assert max(moments) - min(moments) > grace_seconds / 3, "not spread over it"
    assert read_reasons(server) == [("draining", 4200, 1000)]


def count_seen(seen: Path, text: str) -> int:
    """Return how often consumers recorded an event."""
    return seen.read_text().count(text)


def read_reasons(server: LiveServer) -> list[tuple[str, int, int]]:
    """Return the close reasons of recorded connections."""
    query = (
        "select reason, close_code, count(*) from connections_connection"
        " where closed_at is not null group by 1, 2"
    )
    with contextlib.closing(sqlite3.connect(server.folder / "db.sqlite3")) as database:
        return database.execute(query).fetchall()


async def test_bye_names_the_moment_and_the_close_keeps_to_it(
    servers: Servers, seen: Path
) -> None:
    server = start(servers, seen, config={"drain__grace_seconds": 4})
    clients = [await open_socket(server, "/json/") for _ in range(20)]
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    ended = await asyncio.gather(*map(read_to_close, clients))
    slots = []
    for messages, code, moment in ended:
        (bye,) = map(json.loads, messages)
        assert code == 4200
        assert (bye["type"], bye["reason"]) == ("bye", "draining")
        assert bye["reconnect"] == "now"
        slots.append(bye["after_ms"])
        assert moment - began > bye["after_ms"] / 1000 - 0.1
    assert len(set(slots)) == 20
    assert server.wait() == 0
    assert count_seen(seen, "disconnect 4200") == 20


async def test_frames_are_served_until_the_slot(servers: Servers, seen: Path) -> None:
    server = start(servers, seen, config={"drain__grace_seconds": scale(10)})
    clients = [await open_socket(server, "/json/") for _ in range(30)]
    server.signal(signal.SIGTERM)
    byes = [json.loads(await ws.recv()) for ws in clients]
    last = max(range(30), key=lambda index: byes[index]["after_ms"])
    await asyncio.sleep(0.5)
    await clients[last].send('{"type": "echo", "n": 1}')
    assert json.loads(await clients[last].recv()) == {"type": "echo", "n": 1}
    await asyncio.gather(*(ws.close() for ws in clients))
    assert await asyncio.to_thread(server.wait, 30) == 0


async def test_readyz_turns_before_the_port_closes(
    servers: Servers, seen: Path
) -> None:
    # All that is asked before the port closes must be answered by then.
    delay_seconds = scale(2)
    server = start(
        servers,
        seen,
        config={"drain__delay_seconds": delay_seconds, "drain__grace_seconds": 2},
    )
    assert await read_readyz(server) == 200
    stuck = await open_socket(server, "/stuck/")
    await stuck.send("x")
    began = time.monotonic()
    server.signal(signal.SIGTERM)

    async def is_unready() -> bool:
        return await read_readyz(server) == 503

    await wait_until(is_unready, 4)
    refused = await RawClient.connect(server.port)
    with pytest.raises(websockets.InvalidStatus) as caught:
        await open_socket(server, "/json/")
    assert caught.value.response.status_code == 503
    assert caught.value.response.headers["retry-after"]
    refused.close()
    await wait_until(lambda: is_refused(server), 30)
    assert time.monotonic() - began > delay_seconds - 0.1
    assert await asyncio.to_thread(server.wait, 30) == 0


@pytest.mark.parametrize("message", ["x", "stubborn"])
async def test_a_stuck_handler_is_aborted_at_the_deadline(
    servers: Servers, seen: Path, message: str
) -> None:
    """Even a handler that swallows its cancellation is aborted."""
    server = start(servers, seen, config={"drain__grace_seconds": 1})
    ws = await open_socket(server, "/stuck/")
    await ws.send(message)
    await wait_until(lambda: count_seen(seen, "stuck"))
    server.signal(signal.SIGTERM)
    assert await asyncio.to_thread(server.wait, 30) == 0
    assert count_seen(seen, "cancelled")
    assert read_reasons(server) == [("draining", 4200, 1)]
    with contextlib.suppress(websockets.ConnectionClosed):
        await ws.recv()


async def test_a_stubborn_application_of_anybodys_does_not_stop_the_exit(
    servers: Servers, seen: Path
) -> None:
    server = start(servers, seen, application=RAW, config={"drain__grace_seconds": 1})
    await RawClient.open(server.port, "/stubborn")
    server.signal(signal.SIGTERM)
    assert await asyncio.to_thread(server.wait, 30) == 0


@pytest.mark.parametrize("path", ["/foreign/", "/json/"])
async def test_a_second_signal_skips_the_grace(
    servers: Servers, seen: Path, path: str
) -> None:
    server = start(servers, seen, config={"drain__grace_seconds": 60})
    clients = [await open_socket(server, path) for _ in range(300)]
    reading = [asyncio.create_task(read_to_close(ws)) for ws in clients]
    server.signal(signal.SIGTERM)
    await wait_until(lambda: is_refused(server))
    server.signal(signal.SIGTERM)
    assert await asyncio.to_thread(server.wait, 30) == 0
    moments = [moment for _, _, moment in await asyncio.gather(*reading)]
    # By itself the drain would spread the closes over thirty seconds.
    assert max(moments) - min(moments) < 15


async def test_a_socket_opened_just_now_is_drained_too(
    servers: Servers, seen: Path
) -> None:
    """daphne cancels no application if one was upgraded in the last second."""
    server = start(servers, seen, config={"drain__grace_seconds": 1})
    ws = await open_socket(server, "/json/")
    waiting = await RawClient.connect(server.port)
    await waiting.send(b"GET /readyz HTTP/1.1\r\n")
    server.signal(signal.SIGTERM)
    _, code, _ = await read_to_close(ws)
    assert code == 4200
    assert await asyncio.to_thread(server.wait, 30) == 0


async def test_foreign_consumers_are_drained_too(servers: Servers, seen: Path) -> None:
    server = start(servers, seen, config={"drain__grace_seconds": 2})
    clients = [await open_socket(server, "/foreign/") for _ in range(10)]
    server.signal(signal.SIGTERM)
    ended = await asyncio.gather(*map(read_to_close, clients))
    assert {code for _, code, _ in ended} == {4200}
    assert await asyncio.to_thread(server.wait, 30) == 0


async def test_a_request_under_way_is_answered(servers: Servers, seen: Path) -> None:
    server = start(servers, seen, application=RAW, config={"drain__grace_seconds": 5})
    idle = await RawClient.connect(server.port)
    await idle.send(b"GET /seen HTTP/1.1\r\nHost: x\r\n\r\n")
    busy = await RawClient.connect(server.port)
    await busy.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    await wait_until(lambda: has_begun(server))
    server.signal(signal.SIGTERM)
    # The chunked response must arrive complete, with its end.
    assert b"ok" in await busy.read_end(5)
    await idle.read_end(5)
    assert await asyncio.to_thread(server.wait, 30) == 0


async def has_begun(server: LiveServer) -> bool:
    """Return True once the application got the slow request."""
    return "slow request" in await read_seen(server)


@pytest.mark.slow
async def test_a_rolling_restart_loses_nobody(servers: Servers, seen: Path) -> None:
    """Two processes on one port are replaced in turn."""
    port = free_port()
    options: dict[str, Any] = {
        "command": "serve",
        "port": port,
        "arguments": ("--reuse-port",),
        "config": {
            "drain__grace_seconds": 4,
            "echo_endpoint": "true",
            "allow_unshared_limits": "true",
        },
    }
    first = start(servers, seen, **options)
    options["folder"] = first.folder
    second = start(servers, seen, **options)
    arrivals = 0
    is_over = False

    async def stay() -> int:
        """Reconnect as the protocol requires until the test ends."""
        nonlocal arrivals
        returns = 0
        while not is_over:
            try:
                async with open_socket(first, "/ws/echo/") as ws:
                    arrivals += 1
                    _, code, _ = await read_to_close(ws)
                    assert code in (4200, 1000)
                    returns += 1
            except (OSError, websockets.InvalidHandshake):
                await asyncio.sleep(0.25)
        return returns

    clients = [asyncio.create_task(stay()) for _ in range(100)]
    await wait_until(lambda: arrivals == 100, 30)
    for old in (first, second):
        started = start(servers, seen, **options)
        # Until it listens, the other processes answer /readyz.
        await wait_until(lambda server=started: is_listening(server), 30)
        old.signal(signal.SIGTERM)
        assert await asyncio.to_thread(old.wait) == 0
    await wait_until(lambda: count_open(first) == 100, 20)
    is_over = True
    for server in servers.running():
        server.signal(signal.SIGTERM)
        await asyncio.to_thread(server.wait)
    returns = await asyncio.gather(*clients)
    assert min(returns) >= 1


def is_listening(server: LiveServer) -> bool:
    """Return True if a process has a listening socket (proc(5))."""
    sockets = set()
    for descriptor in Path(f"/proc/{server.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # Closed since it was listed.
            link = os.readlink(descriptor)
            sockets.add(link.removeprefix("socket:[").removesuffix("]"))
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = (line.split() for line in lines)
    return any(row[3] == _TCP_LISTEN and row[9] in sockets for row in rows)


def count_open(server: LiveServer) -> int:
    """Return the number of open connections in the database."""
    query = "select count(*) from connections_connection where closed_at is null"
    with contextlib.closing(sqlite3.connect(server.folder / "db.sqlite3")) as database:
        count: int = database.execute(query).fetchone()[0]
        return count
