"""Test TLS, shared ports, inherited sockets, and refusals to start."""

import asyncio
import contextlib
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import websockets
from websockets.typing import Origin

from connections.testing import (
    LiveServer,
    Servers,
    assert_evicted,
    free_port,
    wait_until,
)
from connections.testing.waiting import scale
from tests.project import ROOT
from tests.unix_sockets import is_listening

OPEN = {"anonymous": "true", "echo_endpoint": "true", "drain__grace_seconds": 1}


async def start_with_tls(
    servers: Servers, certificate: tuple[Path, Path], **config: object
) -> tuple[LiveServer, ssl.SSLContext]:
    paths = map(str, certificate)
    arguments = [
        word
        for pair in zip(("--tls-cert", "--tls-key"), paths, strict=True)
        for word in pair
    ]
    server = servers.start(
        is_ready=False, arguments=tuple(arguments), config=OPEN | config
    )
    context = ssl.create_default_context(cafile=str(certificate[0]))

    async def answers() -> bool:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(
                "127.0.0.1", server.port, ssl=context
            )
            writer.close()
            await writer.wait_closed()
            return True
        return False

    await wait_until(answers, 20)
    return server, context


def connect(
    server: LiveServer, context: ssl.SSLContext, path: str = "/ws/echo/"
) -> websockets.connect:
    return websockets.connect(
        f"wss://127.0.0.1:{server.port}{path}",
        ssl=context,
        origin=Origin(f"https://127.0.0.1:{server.port}"),
        open_timeout=scale(20),
    )


async def test_tls_carries_everything(
    servers: Servers, certificate: tuple[Path, Path]
) -> None:
    """Small and large messages, close codes and the drain work over TLS."""
    server, context = await start_with_tls(servers, certificate)
    async with connect(server, context) as ws:
        for message in ("", "x", b"y" * 900_000):
            await ws.send(message)
            assert await ws.recv() == message
        with pytest.raises(websockets.ConnectionClosed):
            # The server may close before it has all of it.
            await ws.send(b"z" * 1_000_001)
            await ws.recv()
        assert ws.close_code == 1009
    async with connect(server, context) as ws:
        server.signal(signal.SIGTERM)
        with pytest.raises(websockets.ConnectionClosed):
            await ws.recv()
        assert ws.close_code == 4200
    assert await asyncio.to_thread(server.wait) == 0


async def test_a_client_that_never_reads_is_cut_off_under_tls_too(
    servers: Servers, certificate: tuple[Path, Path]
) -> None:
    server, context = await start_with_tls(
        servers,
        certificate,
        buffers__send_stall_seconds=1,
        buffers__send_high_water="200kB",
        rate_limit__messages_per_second=100_000,
        rate_limit__burst_messages=100_000,
        rate_limit__bytes_per_second="1GB",
        rate_limit__burst_bytes="1GB",
        buffers__receive_stall_seconds=20,
        node__beat_seconds=0.1,
    )
    before = server.rss_kib()
    ws = await connect(server, context)
    ws.transport.pause_reading()

    async def pour() -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                await ws.send(b"x" * 50_000)
                # asyncio's TLS accepts any amount of data: without this turn of
                # the loop, the closed connection would go unnoticed.
                await asyncio.sleep(0)

    pouring = asyncio.create_task(pour())
    await wait_until(lambda: read_reason(server) == "slow_consumer", 60)
    assert server.rss_kib() - before < 20_000
    pouring.cancel()
    await asyncio.gather(pouring, return_exceptions=True)
    ws.transport.abort()


def read_reason(server: LiveServer) -> str | None:
    with contextlib.closing(sqlite3.connect(server.folder / "db.sqlite3")) as database:
        row = database.execute("select reason from connections_connection").fetchone()
        return row[0] if row else None


async def test_tls_before_1_2_is_refused(
    servers: Servers, certificate: tuple[Path, Path]
) -> None:
    server, _ = await start_with_tls(servers, certificate)

    def try_version(flag: str) -> int:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", flag]
        command += ["-cipher", "DEFAULT@SECLEVEL=0"]
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=scale(10)
        ).returncode

    assert await asyncio.to_thread(try_version, "-tls1_2") == 0
    assert await asyncio.to_thread(try_version, "-tls1_1") != 0


async def test_processes_share_a_port(servers: Servers) -> None:
    port = free_port()
    config = {**OPEN, "allow_unshared_limits": "true"}
    first = servers.start(port=port, arguments=("--reuse-port",), config=config)
    second = servers.start(
        port=port, arguments=("--reuse-port",), config=config, folder=first.folder
    )
    # Until it listens, the other process answers /readyz.
    await wait_until(lambda: second.log().count("Listening") == 2)
    first.signal(signal.SIGTERM)
    assert await asyncio.to_thread(first.wait) == 0
    async with first.connect("/ws/echo/", origin=Origin(first.url)) as ws:
        await ws.send("x")
        assert await ws.recv() == "x"


async def test_a_port_that_is_taken_is_named(servers: Servers) -> None:
    first = servers.start()
    second = servers.start(is_ready=False, port=first.port)
    assert await asyncio.to_thread(second.wait) == 1
    assert f"127.0.0.1:{first.port}: Address already in use" in second.log()


async def test_a_socket_of_a_supervisors_is_served(
    servers: Servers, tmp_path: Path
) -> None:
    """The socket stays open between processes: the next one takes over."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        sock.set_inheritable(True)
        port = sock.getsockname()[1]
        for _ in range(2):
            server = servers.make(port=port, config=OPEN)
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "manage.py",
                "serve",
                "--fd",
                str(sock.fileno()),
                cwd=ROOT,
                env=server.environment,
                pass_fds=[sock.fileno()],
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            url = f"ws://127.0.0.1:{port}/ws/echo/"
            origin = f"http://127.0.0.1:{port}"
            # The kernel queues connections while the process starts.
            async with websockets.connect(
                url, origin=Origin(origin), open_timeout=scale(20)
            ) as ws:
                await ws.send("x")
                assert await ws.recv() == "x"
            os.kill(process.pid, signal.SIGTERM)
            assert await process.wait() == 0


@pytest.mark.parametrize(
    ("command", "option"), [("daphne", "-u"), ("uvicorn", "--uds")]
)
async def test_clients_behind_a_unix_socket_have_addresses_of_their_own(
    servers: Servers, tmp_path: Path, command: str, option: str
) -> None:
    path = tmp_path / "socket"
    server = servers.start(
        is_ready=False,
        command=command,
        arguments=(option, str(path)),
        config=OPEN | {"trusted_proxies": "[unix]", "max_connections_per_client": 1},
    )
    await wait_until(lambda: is_listening(path), 20)

    def open_from(address: str) -> websockets.connect:
        return websockets.unix_connect(
            str(path),
            uri="ws://localhost/ws/echo/",
            origin=Origin("http://localhost"),
            additional_headers={"X-Forwarded-For": address},
            open_timeout=scale(20),
        )

    first = await open_from("192.0.2.1")
    async with open_from("192.0.2.2") as other, open_from("192.0.2.1"):
        await assert_evicted(first)
        await other.send("x")
        assert await other.recv() == "x"
    assert "no limit counts them apart" not in server.log()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--fd", "0"), "file descriptor 0"),
        (("--fd", "77"), "Bad file descriptor"),
        (("--tls-cert", "nowhere.pem"), "--tls-cert and --tls-key go together"),
        (("--tls-cert", "manage.py", "--tls-key", "manage.py"), "no matching pair"),
        (
            ("--tls-cert", "nowhere", "--tls-key", "manage.py"),
            "--tls-cert nowhere: No such file",
        ),
        (("--port", "99999"), "--port 99999: expected a whole number from 0 to 65535"),
        (("--host", "203.0.113.1"), "203.0.113.1"),
    ],
)
async def test_a_refusal_to_start_is_logged_in_one_line(
    servers: Servers, arguments: tuple[str, ...], text: str
) -> None:
    server = servers.start(is_ready=False, arguments=arguments)
    assert await asyncio.to_thread(server.wait) == 1
    assert text in server.log()
    assert "Traceback" not in server.log()


async def test_a_database_without_tables_is_not_served(
    servers: Servers, tmp_path: Path
) -> None:
    environment = {"DATABASE_URL": f"sqlite:///{tmp_path / 'empty'}"}
    server = servers.start(is_ready=False, environment=environment)
    assert await asyncio.to_thread(server.wait) == 1
    problem = "CommandError: the database has no tables; run manage.py migrate"
    assert server.log().splitlines() == [problem]


@pytest.mark.parametrize("command", ["serve", "daphne", "uvicorn"])
async def test_nothing_is_served_on_a_bad_configuration(
    servers: Servers, command: str
) -> None:
    """Every server names every problem."""
    server = servers.start(
        is_ready=False,
        command=command,
        config={"max_total_connections": 0, "idle_timeout_secnds": 3},
    )
    assert await asyncio.to_thread(server.wait) != 0
    assert "max_total_connections: 0 is not allowed" in server.log()
    assert "idle_timeout_secnds" in server.log()


async def test_serve_logs_its_configuration(servers: Servers) -> None:
    server = servers.start(config=OPEN)
    log = server.log()
    assert f"Serving http and ws on 127.0.0.1:{server.port}" in log
    assert "At most 1000 connections, 5 for each client" in log


async def test_systemd_is_told_when_it_serves(servers: Servers, tmp_path: Path) -> None:
    """The protocol of sd_notify(3), on a socket as systemd's."""
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(scale(30))
        environment = {"NOTIFY_SOCKET": address}
        server = servers.start(is_ready=False, config=OPEN, environment=environment)
        state = await asyncio.to_thread(manager.recv, 100)
    assert state == b"READY=1"
    async with server.connect("/ws/echo/", origin=Origin(server.url)) as connection:
        await connection.send("ping")
        assert await connection.recv() == "ping"


async def test_flags_of_daphne_that_have_no_effect_are_named(servers: Servers) -> None:
    server = servers.start(
        command="daphne", arguments=("--ping-interval", "7", "--proxy-headers")
    )
    assert (
        "ping_interval=7 has no effect: websocket.ping_interval_seconds" in server.log()
    )
    assert "websocket.trusted_proxies decides" in server.log()


async def test_runserver_protects_itself_too(servers: Servers) -> None:
    server = servers.make(config=OPEN | {"max_message_size": "1kB"})
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "manage.py",
        "runserver",
        "--noreload",
        str(server.port),
        cwd=ROOT,
        env=server.environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:

        async def connected() -> websockets.ClientConnection | None:
            with contextlib.suppress(OSError):
                return await server.connect("/ws/echo/", origin=Origin(server.url))
            return None

        ws = await wait_until(connected, 20)
        await ws.send("x" * 2000)
        with contextlib.suppress(websockets.ConnectionClosed):
            await ws.recv()
        assert ws.close_code == 1009
    finally:
        os.kill(process.pid, signal.SIGTERM)
        assert await process.wait() == 0
