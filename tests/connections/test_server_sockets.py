"""Test what the server knows and says of the sockets that it listens on."""

import logging
import socket
from typing import Any

import pytest

from connections.asgi import Message, Receive, Send
from connections.server.endpoints import SocketEndpoint
from connections.server.server import Server
from connections.server.sockets import is_unix, open_socket


async def answer(scope: Message, receive: Receive, send: Send) -> None: ...


@pytest.mark.parametrize(
    ("endpoint", "trusted", "has_warning"),
    [
        ("unix:/run/socket", [], True),
        ("unix:/run/socket", ["unix"], False),
        ("tcp:8000:interface=127.0.0.1", [], False),
    ],
)
async def test_a_server_on_a_unix_socket_warns_at_its_start(
    settings: Any,
    caplog: pytest.LogCaptureFixture,
    endpoint: str,
    trusted: list[str],
    has_warning: bool,
) -> None:
    settings.WEBSOCKET = {"trusted_proxies": trusted}
    caplog.set_level(logging.WARNING)
    Server(answer, endpoints=[endpoint])
    assert ("no limit counts them apart" in caplog.text) is has_warning


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET, socket.AF_INET6])
def test_a_unix_socket_of_a_supervisor_is_known(family: socket.AddressFamily) -> None:
    with socket.socket(family) as sock:
        assert is_unix(SocketEndpoint(sock)) is (family == socket.AF_UNIX)


def test_a_host_that_is_unknown_is_named_with_the_reason() -> None:
    with pytest.raises(OSError, match="::none:0: ") as found:
        open_socket("::none", 0)
    assert "Unknown error" not in str(found.value)
