"""Use what deploy/ ships as it is shipped: through its nginx, over TLS."""

import asyncio
import contextlib
import http.client
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Response
from websockets.typing import Subprotocol

from connections.testing import LiveServer, free_port, wait_until
from connections.testing.waiting import scale
from tests.integration.browser import Person, open_browser
from tests.integration.redis_process import RedisProcess
from tests.integration.services import PostgresProcess, find_program
from tests.integration.shipped import DEPLOY, RESOLVE, Site, Visitor, open_site

BURST = 20
"""Handshakes of one address at once; the shipped number takes a while to use up."""

PER_SECOND = 0.1
"""Handshakes of one address for good: the fewest, for a slow machine makes few."""

ORCHESTRA = [Subprotocol("orchestra.v1")]


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory,
    migrated_postgres: PostgresProcess,
    certificate: tuple[Path, Path],
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    redis = RedisProcess(password="letters-and-digits").start()
    config = {
        "handshake__per_address_burst": BURST,
        "handshake__per_address_per_second": PER_SECOND,
        "node__beat_seconds": 0.2,
        # The visitors of this machine are no strangers by the default.
        "metrics__allowed_addresses": "[192.0.2.1]",
    }
    try:
        with open_site(
            folder,
            certificate,
            database_url=migrated_postgres.create_database("shipped", "migrated"),
            redis_url=redis.url,
            config=config,
        ) as site:
            yield site
    finally:
        redis.remove()


def test_a_user_signs_in(site: Site) -> None:
    """Django compares the Origin of the form with the scheme of the request."""
    visitor = Visitor(site)
    answer = visitor.sign_in()
    assert (answer.status, answer.headers["Location"]) == (302, "/"), answer.text
    assert visitor.ask("GET", "/").status == 200
    names = {cookie.partition("=")[0] for cookie in visitor.set_cookies}
    assert names == {"csrftoken", "sessionid"}
    assert [one for one in visitor.set_cookies if "; Secure" not in one] == []


async def test_a_browser_signs_in_and_talks_over_wss(site: Site) -> None:
    async with open_browser(RESOLVE) as browser:
        context = await browser.new_context(ignore_https_errors=True)
        person = Person(site, context)
        tab = await person.sign_in("alice")
        await tab.say("over TLS")

        async def is_there() -> bool:
            return [one.text for one in await tab.read()] == ["over TLS"]

        await wait_until(is_there)
        cookies = {one["name"]: one["secure"] for one in await context.cookies()}
    assert cookies == {"csrftoken": True, "sessionid": True}
    assert person.complaints == []


def test_without_tls_a_visitor_is_redirected(site: Site) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", site.nginx.plain_port)
    with contextlib.closing(connection):
        connection.request(
            "GET", "/sign-in/?next=/", headers={"Host": "chat.example.com"}
        )
        answer = connection.getresponse()
        location = answer.headers["Location"]
    assert (answer.status, location) == (
        301,
        "https://chat.example.com/sign-in/?next=/",
    )
    node = site.nodes[0]
    redirected = read(node, "/sign-in/")
    assert redirected == 301, "the node has its own redirect, without nginx too"
    assert read(node, "/livez") == read(node, "/readyz") == 200


def test_hsts_is_off_until_the_environment_sets_it(site: Site) -> None:
    for path in ("/sign-in/", "/no-such-page"):
        assert "Strict-Transport-Security" not in Visitor(site).get(path).headers


async def test_a_page_opens_a_socket(site: Site) -> None:
    visitor = Visitor(site, "127.0.0.21")
    await asyncio.to_thread(visitor.sign_in)
    async with visitor.connect(subprotocols=ORCHESTRA) as socket:
        hello = json.loads(await socket.recv())
        await socket.send(
            json.dumps({"type": "message", "id": "abcdefghijkl-1", "data": 1})
        )
        ack = json.loads(await socket.recv())
    assert (hello["type"], ack["type"]) == ("hello", "ack")


async def test_a_client_beyond_its_rate_takes_no_node_from_others(site: Site) -> None:
    """nginx used to give up on both nodes: 502 for half of the others' connects."""
    greedy, bystander = Visitor(site, "127.0.0.31"), Visitor(site, "127.0.0.32")
    await asyncio.to_thread(greedy.sign_in)
    await asyncio.to_thread(bystander.sign_in)
    greedy_statuses, statuses = set(), set()
    # Each of two workers of two nodes counts for itself, and clients come to all.
    for _ in range(15):
        greedy_statuses.update(await open_at_once(greedy, 8))
        statuses.add(await open_once(bystander))
    assert greedy_statuses == {101, 429}
    assert statuses == {101}


async def test_a_refusal_says_when_to_return(site: Site) -> None:
    visitor = Visitor(site, "127.0.0.41")
    found = await asyncio.gather(*(find_refusal(visitor) for _ in range(6 * BURST)))
    refusals = [one for one in found if one is not None and one.status_code == 429]
    assert refusals
    for one in refusals:
        assert 1 <= int(one.headers["Retry-After"]) <= 1 / PER_SECOND


async def test_a_rolling_deploy_refuses_nobody(site: Site) -> None:
    """A node that drains or is gone is not asked again for the same request."""
    visitor = Visitor(site, "127.0.0.51")
    await asyncio.to_thread(visitor.sign_in)
    page, newcomer = await asyncio.to_thread(visitor.get, "/sign-in/"), 0
    assert page.status == 200
    async with contextlib.AsyncExitStack() as stack:
        sockets = [
            await stack.enter_async_context(visitor.connect(subprotocols=ORCHESTRA))
            for _ in range(4)
        ]
        statuses = set()
        for node in site.nodes:
            replacing = asyncio.create_task(asyncio.to_thread(replace, node))
            while not replacing.done():
                # Another address each time, so that none is beyond its rate.
                newcomer += 1
                block, number = divmod(newcomer, 250)
                one = visitor.at(f"127.0.{1 + block}.{1 + number}")
                statuses.add(await open_once(one))
                statuses.add((await asyncio.to_thread(one.get, "/sign-in/")).status)
            assert await replacing == 0
        codes = {await read_close_code(socket) for socket in sockets}
    assert statuses == {101, 200}
    assert codes == {4200}


@pytest.mark.parametrize(
    ("credential", "status"), [("", 404), ("Bearer wrong", 401), ("Bearer ", 401)]
)
def test_metrics_need_the_token(site: Site, credential: str, status: int) -> None:
    headers = {"Authorization": credential} if credential else {}
    assert Visitor(site).get("/metrics", **headers).status == status


def test_metrics_are_read_over_tls_and_of_each_node(site: Site) -> None:
    credential = f"Bearer {site.environment['METRICS_TOKEN']}"
    answer = Visitor(site).get("/metrics", Authorization=credential)
    assert answer.status == 200
    assert "active_websocket_connections" in answer.text
    for node in site.nodes:
        assert read(node, "/metrics", credential) == 200
    for path in ("/livez", "/readyz"):
        assert Visitor(site).get(path, Authorization=credential).status == 404


@pytest.mark.parametrize("name", ["prometheus.yml", "kubernetes.yml"])
async def test_prometheus_scrapes_every_node(
    site: Site, tmp_path: Path, name: str
) -> None:
    """With the shipped configuration, but for where nodes and token are."""
    config = yaml.safe_load((DEPLOY / "prometheus" / name).read_text())
    config["global"]["scrape_interval"] = "1s"
    config["rule_files"] = []
    (scrape,) = config["scrape_configs"]
    token = tmp_path / "token"
    token.write_text(site.environment["METRICS_TOKEN"])
    scrape["authorization"]["credentials_file"] = str(token)
    scrape.pop("dns_sd_configs", None)
    targets = [f"127.0.0.1:{node.port}" for node in site.nodes]
    scrape["static_configs"] = [{"targets": targets}]
    with run_prometheus(tmp_path, config) as port:
        await wait_until(lambda: read_health(port) == ["up", "up"])


@contextlib.contextmanager
def run_prometheus(folder: Path, config: dict[str, Any]) -> Iterator[int]:
    """Run Prometheus with a configuration, and yield its port."""
    path, port = folder / "prometheus.yml", free_port()
    path.write_text(yaml.safe_dump(config))
    command = [
        str(find_program("prometheus")),
        f"--config.file={path}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]
    with subprocess.Popen(command) as prometheus:
        try:
            yield port
        finally:
            prometheus.terminate()


def read_health(port: int) -> list[str]:
    """Return the health of the targets of a Prometheus."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=scale(5))
    try:
        connection.request("GET", "/api/v1/targets")
        found = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return []
    finally:
        connection.close()
    return [target["health"] for target in found["data"]["activeTargets"]]


def replace(node: LiveServer) -> int:
    """Restart a node as systemd does; return the exit code of the old process."""
    code = node.terminate()
    node.start()
    return code


async def open_once(visitor: Visitor) -> int:
    """Open a WebSocket and close it; return the status of the handshake."""
    refusal = await find_refusal(visitor)
    return 101 if refusal is None else refusal.status_code


async def find_refusal(visitor: Visitor) -> Response | None:
    """Open a WebSocket and close it; return the response if it was refused."""
    try:
        async with visitor.connect(subprotocols=ORCHESTRA):
            return None
    except InvalidStatus as exc:
        return exc.response


async def open_at_once(visitor: Visitor, count: int) -> list[int]:
    """Open some at the same time: one by one, a slow machine is not too fast."""
    return await asyncio.gather(*(open_once(visitor) for _ in range(count)))


async def read_close_code(socket: ClientConnection) -> int:
    with contextlib.suppress(ConnectionClosed):
        while True:
            await socket.recv()
    return socket.close_code or 0


def read(node: LiveServer, path: str, credential: str = "") -> int:
    """Return the status of a path of one node, asked as Prometheus and probes do."""
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=scale(30))
    with contextlib.closing(connection):
        headers = {"Authorization": credential} if credential else {}
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
