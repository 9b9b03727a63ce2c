"""Test the clients behind a proxy that breaks WebSockets, on a live server."""

import asyncio
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.contrib.auth.models import User

from connections.client import (
    HttpSessions,
    SessionClient,
    SharedConnection,
    State,
    with_fallback,
)
from connections.client.events import StateChanged, TypingChanged
from connections.models import Connection
from connections.testing import LiveServer, Servers, wait_until
from connections.testing.waiting import scale
from tests.integration.nginx import open_to_workers
from tests.integration.plain_proxy import run_plain_proxy
from tests.node import find_node
from tests.project import ROOT, ProjectServers

CONFIG = {"node__beat_seconds": 0.2, "sessions__position_seconds": 0.5}
COUNTING = {"SESSIONS_RESPONDER": "tests.integration.responders.Counting"}
COUNT = {"text": "count", "count": 10, "pause_seconds": 0.02}
MODULES = ROOT / "connections" / "static" / "connections"
UPGRADE = "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;"

SCRIPT = """
import { SessionClient, textOf } from "MODULES/client.js";
import { withFallback } from "MODULES/http.js";

const [port, token, returnMs, count, session] = process.argv.slice(1);
const host = `127.0.0.1:${port}`;
const WebSocket = withFallback(`http://${host}/api/sessions/`, {
  returnMs: Number(returnMs),
});
const client = new SessionClient(`ws://${host}/ws/sessions/`, {
  WebSocket,
  getToken: async () => token,
  presence: true,
  session,
});
const say = (report) => console.log(JSON.stringify(report));
client.addEventListener("state", ({ detail }) =>
  say({ state: detail.to, ...detail.ending }),
);
client.addEventListener("hello", ({ detail }) => say({ session: detail.session }));
client.addEventListener("ended", ({ detail }) => say({ ended: textOf(detail.entry) }));
client.addEventListener("present", ({ detail }) =>
  say({ members: [...detail.members.keys()].sort() }),
);
client.addEventListener("typing", ({ detail }) => say({ typing: detail.isTyping }));
client.connect();
const ack = await client.request(JSON.parse(count));
say({ offset: ack.offset });
process.stdin.on("data", () => client.setTyping(true));
process.stdin.on("end", () => process.exit());
"""

SHARED_SCRIPT = """
import { SharedConnection } from "MODULES/shared.js";
import { withFallback } from "MODULES/http.js";

const [port, token, returnMs, count] = process.argv.slice(1);
const host = `127.0.0.1:${port}`;
const WebSocket = withFallback(`http://${host}/api/sessions/`, {
  returnMs: Number(returnMs),
});
const shared = new SharedConnection(`ws://${host}/ws/sessions/`, {
  WebSocket,
  getToken: async () => token,
});
const say = (report) => console.log(JSON.stringify(report));
shared.addEventListener("hello", () => say({ is_shared: shared.isShared }));
for (const client of [shared.session(), shared.session()]) {
  client.connect();
  say({ offset: (await client.request(JSON.parse(count))).offset });
}
process.stdin.on("end", () => process.exit());
process.stdin.resume();
"""


@pytest.fixture
def server(shared_servers: ProjectServers) -> LiveServer:
    return shared_servers.share(config=CONFIG, environment=COUNTING)


@pytest.fixture
def port(server: LiveServer, tmp_path: Path) -> Iterator[int]:
    """The port of the proxy."""
    with (
        open_to_workers(tmp_path / "proxy") as folder,
        run_plain_proxy(folder, server.port) as port,
    ):
        yield port


class Page:
    """The JavaScript client in node; its reports are lines of JSON."""

    def __init__(
        self,
        port: int,
        token: str,
        return_ms: int,
        *session: str,
        script: str = SCRIPT,
    ) -> None:
        script = script.replace("MODULES", MODULES.as_uri())
        own = ("--experimental-websocket", "--input-type=module", "-e", script)
        values = (str(port), token, str(return_ms), json.dumps(COUNT), *session)
        self._process = subprocess.Popen(
            [find_node(), *own, *values],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._latest: dict[str, Any] = {}

    async def read_latest(self, key: str, value: object) -> None:
        """Wait until the latest report with a key, read or not, has this value."""
        if self._latest.get(key) != value:
            await self.read_until(key, value)

    async def read_until(self, key: str, value: object = None) -> dict[str, Any]:
        """Return the next report with a key, or with this value of it."""
        stdout = self._process.stdout
        assert stdout is not None
        async with asyncio.timeout(scale(40)):
            while line := await asyncio.to_thread(stdout.readline):
                report: dict[str, Any] = json.loads(line)
                self._latest |= report
                if key in report and value in (None, report[key]):
                    return report
        raise AssertionError(f"the page ended before {key}")

    def type(self) -> None:
        """Let the user of the page type."""
        assert self._process.stdin is not None
        self._process.stdin.write("x")
        self._process.stdin.flush()

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def open_page() -> Iterator[Callable[..., Page]]:
    pages: list[Page] = []

    def open_one(
        port: int, token: str, return_ms: int = 600_000, *session: str
    ) -> Page:
        pages.append(Page(port, token, return_ms, *session))
        return pages[-1]

    yield open_one
    for page in pages:
        page.close()


def find_open(server: LiveServer, client_id: str) -> list[str]:
    """Return the transports of the client's open connections."""
    rows = Connection.objects.filter(client_id=client_id, closed_at=None)
    return server.run(lambda: [one.transport for one in rows])


async def test_the_javascript_client_chats_over_plain_http(
    server: LiveServer, port: int, open_page: Callable[..., Page]
) -> None:
    page = open_page(port, server.create_token("jo"))
    await page.read_until("session")
    assert (await page.read_until("offset"))["offset"] == 1
    ended = (await page.read_until("ended"))["ended"]
    assert ended.count("👩‍👩‍👧") == COUNT["count"]
    await wait_until(lambda: find_open(server, "jo") == ["sse"])
    await asyncio.to_thread(server.call, "connections", "kick", "--client", "jo")
    assert (await page.read_until("state", "closed"))["reason"] == "kicked"


async def test_the_client_returns_to_a_socket(
    server: LiveServer, tmp_path: Path, open_page: Callable[..., Page]
) -> None:
    token = server.create_token("rita")
    with open_to_workers(tmp_path / "proxy") as folder:
        with run_plain_proxy(folder, server.port) as port:
            page = open_page(port, token, 1500)
            await wait_until(lambda: find_open(server, "rita") == ["sse"])
        with run_plain_proxy(folder, server.port, UPGRADE, port=port):
            await wait_until(lambda: find_open(server, "rita") == ["websocket"])
    page.close()


async def test_sessions_of_a_shared_connection_fall_back_in_the_javascript_client(
    server: LiveServer, tmp_path: Path
) -> None:
    """Each becomes plain HTTP, and later they share a socket again."""
    token = server.create_token("sara")
    with open_to_workers(tmp_path / "proxy") as folder:
        with run_plain_proxy(folder, server.port) as port:
            page = Page(port, token, 4000, script=SHARED_SCRIPT)
            for _ in range(2):
                await page.read_until("offset", 1)
            await wait_until(lambda: find_open(server, "sara") == ["sse"] * 2)
        with run_plain_proxy(folder, server.port, UPGRADE, port=port):
            await wait_until(lambda: find_open(server, "sara") == ["websocket"])
            await page.read_until("is_shared", True)
    page.close()


async def test_a_server_that_asks_for_patience_is_not_taken_for_a_proxy(
    server: LiveServer, tmp_path: Path, open_page: Callable[..., Page]
) -> None:
    token = server.create_token("pat")
    patience = "add_header Retry-After 1 always;"
    with (
        open_to_workers(tmp_path / "proxy") as folder,
        run_plain_proxy(folder, server.port, patience) as port,
    ):
        page = open_page(port, token)
        for _ in range(4):
            assert (await page.read_until("state", "waiting"))["code"] == 1006
        assert find_open(server, "pat") == []


async def test_a_node_that_refuses_handshakes_is_not_taken_for_a_proxy(
    servers: Servers,
) -> None:
    """A page cannot see the 429; the answer to its GET tells it."""
    limits = {
        "handshake__per_address_per_second": 0.1,
        "handshake__per_address_burst": 1,
    }
    server = servers.start(config={**CONFIG, **limits}, environment=COUNTING)
    headers = {"Authorization": f"Bearer {server.create_token('max')}"}
    sessions = f"{server.url}/api/sessions/?limit=1"
    async with httpx.AsyncClient(headers=headers, timeout=scale(20)) as http:
        assert "Retry-After" not in (await http.get(sessions)).headers
        statuses = []
        for _ in range(2):
            shaken = await http.get(
                f"{server.url}/ws/sessions/new/",
                headers={
                    "Connection": "Upgrade",
                    "Upgrade": "websocket",
                    "Sec-WebSocket-Version": "13",
                    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
                },
            )
            statuses.append(shaken.status_code)
        assert statuses == [101, 429]
        asked = await http.get(sessions)
        assert (asked.status_code, asked.headers["Retry-After"]) == (200, "1")


def make_client(
    port: int, token: str, *, return_seconds: float = 300, **options: Any
) -> SessionClient:
    open_socket = with_fallback(
        f"http://127.0.0.1:{port}/api/sessions/", return_seconds=return_seconds
    )
    url = f"ws://127.0.0.1:{port}/ws/sessions/"
    return SessionClient(url, token=token, open_socket=open_socket, **options)


async def join(server: LiveServer, session: str, owner: str, name: str) -> str:
    """Make a user a member of a session; return a token of the user."""
    server.run(lambda: User.objects.create_user(name))
    url = f"{server.url}/api/sessions/"
    invited = await HttpSessions(url, token=owner).invite(session, "writer")
    token = server.create_token(f"{name}'s laptop", "--user", name)
    await HttpSessions(url, token=token).join(invited.token)
    return token


async def test_clients_behind_the_proxy_are_present_and_type(
    server: LiveServer, port: int, open_page: Callable[..., Page]
) -> None:
    owner = server.create_token("olga")
    url = f"{server.ws_url}/ws/sessions/"
    async with SessionClient(url, token=owner, presence=True) as socket:
        await socket.request({"text": "one"}, answer=False)
        assert socket.session is not None
        guest = await join(server, socket.session, owner, "gus")
        page = open_page(port, guest, 600_000, socket.session)
        plain = make_client(port, owner, session=socket.session, presence=True)
        async with plain, asyncio.timeout(scale(60)):
            await page.read_until("offset")
            await wait_until(lambda: len(socket.presence.members) == 2)
            await page.read_latest("members", sorted(socket.presence.members))
            await wait_until(lambda: plain.presence.members == socket.presence.members)
            kinds = ["sse", "websocket"]
            await wait_until(lambda: sorted(find_open(server, "olga")) == kinds)
            typists: set[tuple[str, str]] = set()

            async def listen() -> None:
                async for event in socket.events():
                    if isinstance(event, TypingChanged) and event.is_typing:
                        typists.add((event.member, event.connection))

            listening = asyncio.create_task(listen())
            page.type()
            await plain.presence.set_typing(True)
            own = (socket.hello["member"], plain.hello["connection"])
            await wait_until(lambda: len(typists) == 2)
            assert own in typists
            assert {member for member, _ in typists} == set(socket.presence.members)
            await socket.presence.set_typing(True)
            await page.read_until("typing", True)
            listening.cancel()
    page.close()


async def test_the_python_client_chats_over_plain_http(
    server: LiveServer, port: int
) -> None:
    async with make_client(port, server.create_token("kim")) as client:
        async with asyncio.timeout(scale(40)):
            assert (await client.request(COUNT)).offset == 1
        await wait_until(
            lambda: [one.state for one in client.entries] == ["done", "done"], 30
        )
        assert client.entries[-1].text.count("👩‍👩‍👧") == COUNT["count"]
        await wait_until(lambda: find_open(server, "kim") == ["sse"])
        await asyncio.to_thread(server.call, "connections", "kick", "--client", "kim")
        await wait_until(lambda: client.state is State.CLOSED)
        assert client.ended is not None
        assert client.ended.reason == "kicked"


async def test_the_python_client_returns_to_a_socket(
    server: LiveServer, tmp_path: Path
) -> None:
    token = server.create_token("ravi")
    with open_to_workers(tmp_path / "proxy") as folder:
        with run_plain_proxy(folder, server.port) as port:
            client = make_client(port, token, return_seconds=1.5)
            client.connect()
            await wait_until(lambda: find_open(server, "ravi") == ["sse"])
            session = client.session
        with run_plain_proxy(folder, server.port, UPGRADE, port=port):
            await wait_until(lambda: find_open(server, "ravi") == ["websocket"])
            assert (await client.request(COUNT)).offset == 1
            assert client.session == session
            await client.close()


async def test_sessions_of_a_shared_connection_fall_back_in_the_python_client(
    server: LiveServer, tmp_path: Path
) -> None:
    """Each becomes plain HTTP, and later they share a socket again."""
    token = server.create_token("sam")
    with open_to_workers(tmp_path / "proxy") as folder:
        with run_plain_proxy(folder, server.port) as port:
            http = f"http://127.0.0.1:{port}/api/sessions/"
            shared = SharedConnection(
                f"ws://127.0.0.1:{port}/ws/sessions/",
                token=token,
                open_socket=with_fallback(http, return_seconds=4),
            )
            clients = [shared.session(), shared.session()]
            async with asyncio.timeout(scale(40)):
                for client in clients:
                    client.connect()
                    assert (await client.request(COUNT)).offset == 1
            await wait_until(lambda: find_open(server, "sam") == ["sse"] * 2)
            assert not shared.is_shared
        with run_plain_proxy(folder, server.port, UPGRADE, port=port):
            await wait_until(lambda: find_open(server, "sam") == ["websocket"])
            async with asyncio.timeout(scale(40)):
                for client in clients:
                    assert (await client.request(COUNT)).offset == 3
            assert shared.is_shared
            await shared.close()


async def test_the_python_client_does_not_take_patience_for_a_proxy(
    server: LiveServer, tmp_path: Path
) -> None:
    token = server.create_token("pia")
    patience = "add_header Retry-After 1 always;"
    with (
        open_to_workers(tmp_path / "proxy") as folder,
        run_plain_proxy(folder, server.port, patience) as port,
    ):
        async with make_client(port, token) as client:
            codes: list[int] = []
            async with asyncio.timeout(scale(60)):
                async for event in client.events():
                    if isinstance(event, StateChanged) and event.state is State.WAITING:
                        assert event.ended is not None
                        codes.append(event.ended.code)
                        if len(codes) == 4:
                            break
            assert codes == [1006] * 4
            assert find_open(server, "pia") == []
