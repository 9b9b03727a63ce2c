"""
Take README's screenshots of the admin; measure the dashboard at 10,000 connections.

    .venv/bin/python -m tests.integration.screenshots [--connections 10000]

Connections are real sockets; what the trends show of the hours before is planted.
"""

import argparse
import asyncio
import contextlib
import json
import random
import resource
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page

from connections.testing import TEXT, LiveServer, build_frame, build_request
from connections.testing.waiting import scale
from tests.integration.browser import open_browser
from tests.project import ROOT, make_server

URL = "/admin/connections/livedashboard/"
LIST_URL = "/admin/connections/connection/"
DOCS = ROOT / "docs" / "_static"
ENVIRONMENT = {"SECRET_KEY": "of the pictures alone", "DEBUG": "true"}
_NAMES = (
    "alice bob carol dave erin frank grace heidi ivan judy mallory niaj olivia peggy "
    "rupert sybil trent victor walter yolanda acme:printer-17 acme:kiosk-3 "
    "shop:terminal-9 <script>alert(1)</script>"
)
_PREPARE = """
import json, math, random
from datetime import timedelta
from django.contrib.auth import get_user_model
from django.test import Client
from django.utils import timezone
from connections.credentials.tokens import create_access_token
from connections.models import Alert, MinuteRollup
user = get_user_model().objects.create_user("admin", is_staff=True, is_superuser=True)
client = Client()
client.force_login(user)
now = timezone.now()
last = int(now.timestamp() // 60)
chance = random.Random(7)
rows = []
for minute in range(last - 24 * 60, last):
    wave = 0.5 + 0.5 * math.sin(minute / 55)
    usual = (1, 2, 5, 7, 9, 14, 22, 15, 9, 4, 1, 0, 0)
    ended = [round(count * (0.3 + wave)) for count in usual]
    total = sum(ended)
    reasons = {"closed": total * 6 // 10, "network": total // 6, "idle": total // 8}
    reasons["evicted"] = total // 30
    reasons["slow_consumer"] = int(minute %% 9 == 0)
    storm = max(0, 14 - abs(minute - last + 27) * 2)
    errors = {"internal": storm + chance.choice([0, 0, 1])}
    errors["invalid_json"] = chance.choice([0, 0, 0, 1, 2])
    errors["invalid_message"] = chance.choice([0, 0, 1])
    rows.append(MinuteRollup(
        node_id="history", minute=minute,
        open_connections=round(%(open)d * (0.4 + 0.7 * wave)), opened=total + 3,
        ended=sum(reasons.values()), messages_in=total * 90, messages_out=total * 110,
        errors=sum(errors.values()), errors_by_kind=errors, ends_by_reason=reasons,
        durations=ended))
MinuteRollup.objects.bulk_create(rows)
since = now - timedelta(seconds=30)
alert = {"severity": "warning", "value": 0.31, "peak": 0.4, "threshold": 0.25}
Alert.objects.create(rule="loop_lag", state="pending", since=since, **alert)
Alert.objects.create(rule="mass_disconnect", state="resolved", resolved_at=since,
    since=since - timedelta(minutes=6), **alert)
tokens = {name: create_access_token(name)[0] for name in json.loads(%(names)r)}
print(json.dumps({"session": client.session.session_key, "tokens": tokens}))
"""


class Socket:
    """A client on a plain socket, cheap enough for thousands."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, server: LiveServer, token: str) -> "Socket":
        """Open the WebSocket."""
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        authorization = f"Authorization: Bearer {token}"
        writer.write(build_request("/ws/echo/", server.port, authorization))
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 101 " not in head:
            raise ConnectionError(head.decode("latin-1"))
        return cls(reader, writer)

    async def say(self, text: str, times: int = 1) -> None:
        """Send a message, and discard what has arrived."""
        self._writer.write(build_frame(TEXT, text.encode()) * times)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.001):
                await self._reader.read(65536)

    def close(self) -> None:
        """Close the socket."""
        self._writer.close()


async def open_all(
    server: LiveServer, tokens: dict[str, str], counts: dict[str, int]
) -> dict[str, list[Socket]]:
    """Open the connections of each client, a hundred handshakes at a time."""
    turn = asyncio.Semaphore(100)

    async def open_one(name: str) -> tuple[str, Socket]:
        async with turn:
            return name, await Socket.open(server, tokens[name])

    wanted = [name for name, count in counts.items() for _ in range(count)]
    found: dict[str, list[Socket]] = {}
    for name, socket in await asyncio.gather(*map(open_one, wanted)):
        found.setdefault(name, []).append(socket)
    return found


async def chat(sockets: list[Socket], flooder: Socket) -> None:
    """Send on the sockets until cancelled, on one of them beyond its rate."""
    round_number = 0
    while True:
        for socket in sockets:
            await socket.say("x" * random.randint(5, 400))
        if round_number % 6 == 0:
            await flooder.say("flood", times=160)
        round_number += 1
        await asyncio.sleep(0.5)


@contextlib.asynccontextmanager
async def scene(
    counts: dict[str, int], talking: float, **config: object
) -> AsyncIterator[tuple[LiveServer, str]]:
    """Serve with open connections, some of them active; yield a staff session."""
    with tempfile.TemporaryDirectory() as folder:
        server = make_server(Path(folder), environment=ENVIRONMENT, config=dict(config))
        await asyncio.to_thread(server.manage, "migrate", "--verbosity", "0")
        names = json.dumps(list(counts))
        script = _PREPARE % {"open": sum(counts.values()), "names": names}
        made = await asyncio.to_thread(server.manage, "shell", "-c", script)
        prepared = json.loads(made.splitlines()[-1])
        await asyncio.to_thread(server.start)
        try:
            found = await open_all(server, prepared["tokens"], counts)
            everyone = [one for some in found.values() for one in some]
            chance = random.Random(3)
            talkers = [one for one in everyone if chance.random() < talking]
            talk = asyncio.create_task(chat(talkers, everyone[-1]))
            # Silent connections change their state after ten seconds.
            await asyncio.sleep(14)
            yield server, prepared["session"]
            talk.cancel()
            for one in everyone:
                one.close()
        finally:
            server.stop()


async def open_page(
    browser: Browser, server: LiveServer, session: str, **options: Any
) -> Page:
    """Open the dashboard as staff, until it is live."""
    context = await browser.new_context(**options)
    url = server.url
    await context.add_cookies([{"name": "sessionid", "value": session, "url": url}])
    page = await context.new_page()
    await page.goto(server.url + URL)
    await page.wait_for_selector("#live-badge.is-live", timeout=60_000)
    await page.wait_for_timeout(4000)
    return page


async def shoot(page: Page, name: str) -> None:
    """Take a screenshot of the dashboard without the admin's frame."""
    path = DOCS / f"dashboard-{name}.png"
    await page.locator("#content").screenshot(path=path)
    print(f"{path.name}: {path.stat().st_size // 1000} kB")


async def shoot_list(page: Page, server: LiveServer) -> None:
    """Take a screenshot of the list of connections at a laptop's width."""
    await page.goto(server.url + LIST_URL)
    path = DOCS / "admin.png"
    await page.screenshot(
        path=path, clip={"x": 0, "y": 0, "width": 1440, "height": 640}
    )
    print(f"{path.name}: {path.stat().st_size // 1000} kB")


async def shoot_small() -> None:
    """Take screenshots of a few dozen connections: light, dark and narrow."""
    chance = random.Random(3)
    counts = {name: chance.choice([1, 1, 2, 3, 4]) for name in _NAMES.split()}
    async with (
        scene(counts, 0.3, ping_interval_seconds=3600) as (server, session),
        open_browser() as browser,
    ):
        wide = {"width": 1440, "height": 1000}
        page = await open_page(browser, server, session, viewport=wide)
        await shoot(page, "light")
        await shoot_list(page, server)
        dark = {"viewport": wide, "color_scheme": "dark"}
        page = await open_page(browser, server, session, **dark)
        await page.click("[data-client=carol] svg")
        await page.wait_for_selector("#live-details:not([hidden]) dl")
        await shoot(page, "dark")
        narrow = {"viewport": {"width": 390, "height": 844}}
        page = await open_page(browser, server, session, **narrow)
        await shoot(page, "narrow")


async def shoot_large(connections: int) -> None:
    """Take a screenshot of thousands of connections, and measure the page."""
    counts = {f"client-{index:04}": 4 for index in range(connections // 4)}
    limits = {
        "max_total_connections": 2 * connections,
        "ping_interval_seconds": 3600,
        "handshake__per_address_per_second": 100_000,
        "handshake__per_address_burst": 1_000_000,
    }
    async with (
        scene(counts, 0.05, **limits) as (server, session),
        open_browser() as browser,
    ):
        wide = {"width": 1440, "height": 1000}
        page = await open_page(browser, server, session, viewport=wide)
        await shoot(page, str(connections))
        print(json.dumps(await measure(page, server, session), indent=1))


async def measure(page: Page, server: LiveServer, session: str) -> dict[str, Any]:
    """Measure a page's cost for the server, the network and the browser."""
    seconds = []
    size = 0
    for _ in range(7):
        await asyncio.sleep(1.2)
        took, size = await asyncio.to_thread(_fetch, server, session)
        seconds.append(took)
    redraw = await page.evaluate(
        """async () => {
            const panel = document.querySelector('[data-panel="map"]');
            const html = panel.innerHTML;
            const times = [];
            for (let round = 0; round < 5; round += 1) {
                const began = performance.now();
                const template = document.createElement("template");
                template.innerHTML = html;
                panel.replaceChildren(template.content);
                panel.getBoundingClientRect();
                times.push(performance.now() - began);
                await new Promise(requestAnimationFrame);
            }
            return times.sort((a, b) => a - b)[2];
        }"""
    )
    shown = await page.inner_text(".live-tile .live-value >> nth=0")
    return {
        "open": shown,
        "page_ms": round(1000 * sorted(seconds)[3]),
        "page_kB_compressed": round(size / 1000),
        "redraw_ms": round(redraw, 1),
    }


def _fetch(server: LiveServer, session: str) -> tuple[float, int]:
    """Return an uncached page's load time and its compressed size."""
    headers = {"Cookie": f"sessionid={session}", "Accept-Encoding": "gzip"}
    request = urllib.request.Request(server.url + URL, headers=headers)
    began = time.perf_counter()
    with urllib.request.urlopen(request, timeout=scale(60)) as answer:
        return time.perf_counter() - began, len(answer.read())


def main() -> None:
    """Take all screenshots."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--only", choices=["small", "large"])
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.only != "large":
        asyncio.run(shoot_small())
    if options.only != "small":
        asyncio.run(shoot_large(options.connections))


if __name__ == "__main__":
    main()
