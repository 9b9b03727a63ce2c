"""Test the forms of a request target and the Host headers (RFC 9112, section 3.2)."""

import base64

import pytest

from connections.asgi import Message, Receive, Send
from connections.server.target import BadTarget, Target, read_target
from tests.connections.http_channel import Peer

_HOST = b"Host: own.example\r\n"
_UPGRADE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: " + base64.b64encode(bytes(16)) + b"\r\n"
)


class Application:
    """Keeps each scope, and answers a request."""

    def __init__(self) -> None:
        self.scopes: list[Message] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        (b"/a?b=//c", b"/a?b=//c", None),
        (b"//elsewhere/a", b"//elsewhere/a", None),
        (b"http://one.example/a?b=c", b"/a?b=c", b"one.example"),
        (b"HTTPS://one.example:8443/a", b"/a", b"one.example:8443"),
        (b"http://[::1]:80/", b"/", b"[::1]:80"),
        (b"http://one.example", b"/", b"one.example"),
        (b"http://one.example?a=/b", b"/?a=/b", b"one.example"),
    ],
)
def test_the_forms_of_a_target(target: bytes, path: bytes, host: bytes | None) -> None:
    found = read_target(b"GET", target, b"HTTP/1.1", [b"own.example"])
    assert found == Target(path=path, host=host)


REFUSED = [
    (b"GET", b"*", [b"x"], 400),
    (b"OPTIONS", b"*", [b"x"], 501),
    (b"CONNECT", b"one.example:443", [b"x"], 501),
    (b"CONNECT", b"/", [b"x"], 501),
    (b"GET", b"one.example:443", [b"x"], 400),
    (b"GET", b"livez", [b"x"], 400),
    (b"GET", b"ftp://one.example/", [b"x"], 400),
    (b"GET", b"http:///livez", [b"x"], 400),
    (b"GET", b"http://user@one.example/", [b"x"], 400),
    (b"GET", b"http://one.example:x/", [b"x"], 400),
    (b"GET", b"/livez", [], 400),
    (b"GET", b"/livez", [b"x", b"x"], 400),
    (b"GET", b"http://one.example/livez", [], 400),
    (b"GET", b"http://one.example/livez", [b"x", b"y"], 400),
]


@pytest.mark.parametrize(("method", "target", "hosts", "status"), REFUSED)
def test_another_target_or_host_is_refused(
    method: bytes, target: bytes, hosts: list[bytes], status: int
) -> None:
    with pytest.raises(BadTarget) as caught:
        read_target(method, target, b"HTTP/1.1", hosts)
    assert caught.value.status == status


def test_http_1_0_needs_no_host() -> None:
    """Probes of some load balancers send HTTP/1.0 without one."""
    assert read_target(b"GET", b"/livez", b"HTTP/1.0", []).path == b"/livez"
    with pytest.raises(BadTarget):
        read_target(b"GET", b"/livez", b"HTTP/1.0", [b"x", b"x"])


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_the_host_of_the_target_replaces_the_header(version: bytes) -> None:
    application = Application()
    async with Peer(application) as peer:
        line = b"GET http://one.example:80/a%20b?c=d HTTP/" + version
        await peer.send(line + b"\r\n" + _HOST + b"\r\n")
        assert (await peer.read()).startswith(b"HTTP/%b 200" % version)
    (scope,) = application.scopes
    assert (scope["path"], scope["raw_path"]) == ("/a b", b"/a%20b")
    assert scope["query_string"] == b"c=d"
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    assert hosts == [b"one.example:80"]


async def test_a_handshake_may_name_its_host_in_the_target() -> None:
    application = Application()
    async with Peer(application) as peer:
        line = b"GET http://one.example/ws?c=d HTTP/1.1\r\n"
        await peer.send(line + _HOST + _UPGRADE + b"\r\n")
        assert (await peer.read()).startswith(b"HTTP/1.1 101")
        (scope,) = application.scopes
        assert (scope["path"], scope["query_string"]) == ("/ws", b"c=d")
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        assert hosts == [b"one.example"]


@pytest.mark.parametrize("upgrade", [b"", _UPGRADE])
@pytest.mark.parametrize(("method", "target", "hosts", "status"), REFUSED)
async def test_a_refusal_reaches_the_client_alone(
    method: bytes, target: bytes, hosts: list[bytes], status: int, upgrade: bytes
) -> None:
    application = Application()
    async with Peer(application) as peer:
        lines = b"".join(b"Host: %b\r\n" % host for host in hosts)
        await peer.send(b"%b %b HTTP/1.1\r\n" % (method, target))
        await peer.send(lines + upgrade + b"\r\n")
        assert (await peer.read()).startswith(b"HTTP/1.1 %d" % status)
        assert peer.server.request_limits.refusals == {"bad_request": 1}
    assert application.scopes == []
