"""Test clients that give up before their handshake is answered, under each server."""

from pathlib import Path

import pytest
import websockets

from connections.testing import RawClient, Servers, wait_until
from connections.testing.raw_client import build_request

PATIENT = "tests.integration.patient:application"
SOCKET = "/patient/"
LIVE = "/patient/live"


@pytest.mark.parametrize(
    ("command", "paths"),
    [
        ("serve", (SOCKET, LIVE)),
        ("daphne", (SOCKET, LIVE)),
        ("stock daphne", (SOCKET,)),
        ("uvicorn", (SOCKET, LIVE)),
        ("hypercorn", (SOCKET, LIVE)),
        # It tells nothing of a socket that ends before its accept.
        ("granian", (LIVE,)),
    ],
)
async def test_a_client_that_gave_up_evicts_nobody(
    servers: Servers, tmp_path: Path, command: str, paths: tuple[str, ...]
) -> None:
    """It is back on another connection by the time it is answered."""
    seen = tmp_path / "seen"
    seen.touch()
    environment = {
        "SEEN": str(seen),
        "DJANGO_SETTINGS_MODULE": "tests.integration.patient_settings",
    }
    if command == "stock daphne":
        environment["UNPROTECTED"] = "1"
    server = servers.start(
        command=command.split()[-1],
        application=PATIENT,
        environment=environment,
        config={"anonymous": "true", "max_connections_per_client": 1},
    )
    for path in paths:
        client = await RawClient.connect(server.port)
        origin = f"Origin: {server.url}"
        if path == SOCKET:
            await client.send(build_request(path, server.port, origin))
        else:
            host = f"Host: 127.0.0.1:{server.port}"
            lines = (f"GET {path}?live=sse HTTP/1.1", host, origin, "", "")
            await client.send("\r\n".join(lines).encode())
        await wait_until(lambda path=path: f"waits {path}\n" in seen.read_text())
        client.close()
        async with server.connect("/echo/", origin=server.url) as back:
            with seen.open("a") as file:
                file.write(f"accept {path}\n")
            await wait_until(lambda path=path: f"answered {path}\n" in seen.read_text())
            message = '{"type": "echo"}'
            try:
                await back.send(message)
                assert await back.recv() == message
            except websockets.ConnectionClosed as exc:
                pytest.fail(f"{path} evicted the connection: {exc}")
    assert "Traceback" not in server.log()
