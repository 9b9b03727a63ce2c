"""Test the dashboard in Chromium with real connections."""

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page
from websockets.asyncio.client import ClientConnection, connect

from connections.testing import LiveServer, Servers, read_close, wait_until
from connections.testing.waiting import scale
from tests.integration.browser import open_browser
from tests.project import make_server

URL = "/admin/connections/livedashboard/"
EVIL_CLIENT = "<script>planted('client')</script>"
EVIL_AGENT = "<script>planted('agent')</script>"
CLIENTS = ("alice", "bob", "carol", EVIL_CLIENT)
OPENED = {"alice": 3, "bob": 1, EVIL_CLIENT: 2}
ENVIRONMENT = {
    "DJANGO_SETTINGS_MODULE": "tests.integration.strict_settings",
    # Sessions are created before their server.
    "SECRET_KEY": "known to all servers of this module, and nowhere else",
}
_PATIENCE_MS = 15_000

STAFF = {
    "root": None,
    "viewer": ["view_livedashboard"],
    "kicker": ["view_livedashboard", "end_connection"],
}
_PREPARE = """
import json
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import Client
from connections.credentials.tokens import create_access_token
made = {"sessions": {}, "tokens": {}}
for name, codes in %r.items():
    user = get_user_model().objects.create_user(name, is_staff=True)
    user.is_superuser = codes is None
    user.save()
    user.user_permissions.set(Permission.objects.filter(codename__in=codes or ()))
    client = Client()
    client.force_login(user)
    made["sessions"][name] = client.session.session_key
for name in %r:
    made["tokens"][name] = create_access_token(name)[0]
print(json.dumps(made))
"""
_READ_LOG = """
from django.contrib.admin.models import LogEntry
for entry in LogEntry.objects.all():
    print(entry.user, entry.get_change_message())
"""


class Desk:
    """A server with connections, and the sessions of its staff."""

    def __init__(self, server: LiveServer, prepared: dict[str, Any]) -> None:
        self.server = server
        self.sessions: dict[str, str] = prepared["sessions"]
        self._tokens: dict[str, str] = prepared["tokens"]
        self.complaints: list[str] = []
        self.clients: dict[str, list[ClientConnection]] = {}

    async def join(self, client: str, count: int) -> None:
        """Open connections of a client."""
        token = self._tokens[client]
        for _ in range(count):
            opened = await connect(
                f"{self.server.ws_url}/ws/echo/",
                additional_headers={"Authorization": f"Bearer {token}"},
                user_agent_header=EVIL_AGENT,
                open_timeout=scale(20),
            )
            self.clients.setdefault(client, []).append(opened)

    async def open_page(
        self, browser: Browser, name: str, path: str = URL, **options: Any
    ) -> Page:
        """Open a page as a member of staff, under the strict policy."""
        options = {"viewport": {"width": 1280, "height": 900}, **options}
        context = await browser.new_context(**options)
        context.set_default_timeout(scale(_PATIENCE_MS))
        session = self.sessions[name]
        await context.add_cookies(
            [{"name": "sessionid", "value": session, "url": self.server.url}]
        )
        page = await context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._record)
        await page.goto(self.server.url + path)
        return page

    def _record(self, message: Any) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def count(self) -> int:
        """Return the number of open connections."""
        return sum(
            one.close_code is None for some in self.clients.values() for one in some
        )

    async def close(self) -> None:
        for some in self.clients.values():
            await asyncio.gather(*(one.close() for one in some))


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def migrated_database(
    migrated_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A copy with logged-in staff, and tokens for clients."""
    folder = tmp_path_factory.mktemp("staff")
    shutil.copy(migrated_database, folder)
    server = make_server(folder, environment=ENVIRONMENT)
    made = server.manage("shell", "-c", _PREPARE % (STAFF, CLIENTS))
    (folder / "prepared.json").write_text(made.splitlines()[-1])
    return folder / migrated_database.name


@pytest.fixture
async def desk(servers: Servers, migrated_database: Path) -> AsyncIterator[Desk]:
    server = servers.start(config={"node__beat_seconds": 0.2}, environment=ENVIRONMENT)
    prepared = json.loads(migrated_database.with_name("prepared.json").read_text())
    desk = Desk(server, prepared)
    for client, count in OPENED.items():
        await desk.join(client, count)
    yield desk
    await desk.close()


async def read_map(page: Page) -> dict[str, int]:
    """Return the map's number of connections by client."""
    found = await page.eval_on_selector_all(
        "#live-map [data-client]",
        "all => all.map(one => [one.dataset.client,"
        " one.querySelector('.visually-hidden').textContent])",
    )
    return {client: int(text.split()[0]) for client, text in found}


async def wait_for_map(page: Page, expected: dict[str, int]) -> None:
    async def is_shown() -> bool:
        return await read_map(page) == expected

    try:
        await wait_until(is_shown, 30)
    except TimeoutError:
        assert await read_map(page) == expected


async def test_what_the_page_shows_is_what_is_open(
    desk: Desk, browser: Browser
) -> None:
    """The page updates without a reload, and omits the dashboard's own connections."""
    page = await desk.open_page(browser, "root")
    await page.wait_for_selector("#live-badge.is-live")
    await wait_for_map(page, OPENED)
    assert await page.inner_text(".live-tile .live-value >> nth=0") == "6"
    await desk.join("carol", 2)
    await desk.clients["bob"][0].close()
    await wait_for_map(page, {"alice": 3, EVIL_CLIENT: 2, "carol": 2})
    assert await page.inner_text("#live-badge") == "Live"
    await page.click("#live-pause")
    await desk.clients["carol"][0].close()
    assert await page.inner_text("#live-badge") == "Paused"
    await asyncio.sleep(2.5)
    assert (await read_map(page))["carol"] == 2
    await page.click("#live-pause")
    await wait_for_map(page, {"alice": 3, EVIL_CLIENT: 2, "carol": 1})
    assert desk.count() == 6
    await page.select_option("#live-every", "5")
    await page.reload()
    assert await page.input_value("#live-every") == "5"
    assert desk.complaints == []


async def test_a_kick_closes_the_socket_and_leaves_an_audit_entry(
    desk: Desk, browser: Browser
) -> None:
    page = await desk.open_page(browser, "kicker")
    await page.wait_for_selector("#live-badge.is-live")
    await wait_for_map(page, OPENED)
    await page.click("[data-client=bob] svg")
    await page.wait_for_selector("#live-details:not([hidden]) dl")
    assert "bob" in await page.inner_text("#live-details dl")
    await page.click("#live-details >> text=End…")
    assert "End 1 connection?" in await page.inner_text(".live-question")
    await page.fill("#id_reason", "too loud")
    await page.click("[type=submit].default")
    assert await read_close(desk.clients["bob"][0]) == (4009, "kicked")
    await page.wait_for_selector(".live-result >> text=1 of 1 connection ended")
    assert desk.count() == 5
    output = await asyncio.to_thread(desk.server.manage, "shell", "-c", _READ_LOG)
    assert output.splitlines()[-1] == "kicker End: too loud"
    assert desk.complaints == []


async def test_actions_on_one_node_reach_the_other(
    servers: Servers, migrated_database: Path, browser: Browser
) -> None:
    """The two processes share only a database."""
    config = {"node__beat_seconds": 0.2, "allow_unshared_limits": "true"}
    near, far = servers.start_pair(config=config, environment=ENVIRONMENT)
    prepared = json.loads(migrated_database.with_name("prepared.json").read_text())
    desk, beyond = Desk(near, prepared), Desk(far, prepared)
    await beyond.join("alice", 2)
    await beyond.join("bob", 1)
    page = await desk.open_page(browser, "root")
    await page.wait_for_selector("#live-badge.is-live")
    await wait_for_map(page, {"alice": 2, "bob": 1})

    async def act(query: str, **form: str) -> None:
        await page.goto(f"{near.url}{URL}action/{query}")
        for name, text in {"reason": "a test", **form}.items():
            await page.fill(f"#id_{name}", text)
        await page.click("[type=submit].default")

    await act("end-all/?target=client&value=alice")
    for one in beyond.clients["alice"]:
        assert await read_close(one) == (4009, "kicked")
    await page.wait_for_selector(".live-result >> text=2 of 2 connections ended")
    node_id = read_ready(far).json()["node"]
    await act(f"drain/?target=node&value={node_id}")
    assert await read_close(beyond.clients["bob"][0]) == (4200, "draining")
    assert read_ready(far).status_code == 503
    assert read_ready(near).status_code == 200
    await act(f"serve/?target=node&value={node_id}")
    await wait_until(lambda: read_ready(far).status_code == 200)
    await beyond.join("bob", 1)
    await act("notice/?target=client&value=bob", text="hello")
    # The consumer takes text, but no notices.
    await page.wait_for_selector(".live-problem >> text=Not reached: 1 connection")
    assert beyond.clients["bob"][-1].close_code is None
    await beyond.close()


def read_ready(server: LiveServer) -> httpx.Response:
    """Return the answer of /readyz."""
    return httpx.get(f"{server.url}/readyz", timeout=scale(20))


async def test_a_viewer_may_look_and_not_act(desk: Desk, browser: Browser) -> None:
    page = await desk.open_page(browser, "viewer")
    await page.wait_for_selector("#live-badge.is-live")
    await wait_for_map(page, OPENED)
    assert await page.query_selector("a[href*='/action/']") is None
    await page.click("[data-client=alice] > span >> nth=0")
    await page.wait_for_selector("#live-details:not([hidden]) table")
    assert await page.query_selector("a[href*='/action/']") is None
    answer = await page.goto(
        f"{desk.server.url}{URL}action/end-all/?target=client&value=alice"
    )
    assert answer is not None and answer.status == 403
    assert desk.count() == 6


async def test_a_planted_script_stays_text(desk: Desk, browser: Browser) -> None:
    """The script is a client id and a user agent, on every page that shows them."""
    page = await desk.open_page(browser, "root")
    await page.wait_for_selector("#live-badge.is-live")
    await wait_for_map(page, OPENED)
    await page.click(f"[data-client={json.dumps(EVIL_CLIENT)}] svg")
    await page.wait_for_selector("#live-details:not([hidden]) dl")
    assert EVIL_CLIENT in await page.inner_text("#live-details")
    await page.click("#live-details >> text=Record")
    text = await page.inner_text("#content")
    assert EVIL_AGENT in text and EVIL_CLIENT in text
    await page.goto(f"{desk.server.url}/admin/connections/connection/")
    assert EVIL_CLIENT in await page.inner_text("#result_list")
    assert desk.complaints == []


async def test_it_is_whole_without_scripts(desk: Desk, browser: Browser) -> None:
    page = await desk.open_page(browser, "root", java_script_enabled=False)
    assert await page.inner_text("#live-badge") == "Static"
    assert "6 connections · 3 clients" in await page.inner_text("#live-map")
    assert await page.is_visible("#live-durations-title")
    assert await page.is_visible(".live-filters button")
    assert not await page.is_visible("#live-controls")
    await page.click("text=by route")
    assert "by=route" in page.url
    await page.click("[data-client=alice]")
    assert "/admin/connections/connection/?client_id=alice" in page.url
    assert await page.locator("#result_list tbody tr").count() == 3


async def test_it_is_accessible_in_each_theme_and_width(
    desk: Desk, browser: Browser
) -> None:
    schemes: tuple[Any, ...] = ("light", "dark")
    for scheme, width in product(schemes, (1280, 390)):
        page = await desk.open_page(
            browser,
            "root",
            viewport={"width": width, "height": 800},
            color_scheme=scheme,
            reduced_motion="reduce",
        )
        await page.wait_for_selector("#live-badge.is-live")
        await page.click("[data-client=alice] > span >> nth=0")
        await page.wait_for_selector("#live-details:not([hidden]) table")
        await page.click("#live-twin summary")
        found = await Axe().run(page, context="#live")
        violations = found.response["violations"]
        problems = [(one["id"], one["nodes"][0]["html"]) for one in violations]
        assert problems == [], (scheme, width)
        shown_width = await page.evaluate("document.documentElement.scrollWidth")
        assert shown_width <= width
        await page.context.close()


async def test_pages_fit_each_width_without_a_complaint(
    desk: Desk, browser: Browser
) -> None:
    """Under the strict policy; a node answers `connections top` with its clients."""
    top = ("connections", "top", "--json")

    async def is_counted() -> bool:
        """Open connections are counted every five seconds."""
        found = await asyncio.to_thread(desk.server.manage, *top)
        rows = json.loads(found.splitlines()[-1])["top"]["client"]["rows"]
        return bool(rows[:1] == [{"client": "alice", "at_least": 3, "at_most": 3}])

    await wait_until(is_counted, 30)
    node_id = read_ready(desk.server).json()["node"]
    page = await desk.open_page(browser, "root")
    await page.wait_for_selector("#live-badge.is-live")
    await page.wait_for_selector("[data-panel=top] >> text=alice")
    names = (
        "livedashboard/",
        "errorevent/",
        f"node/{node_id}/change/",
        "connection/",
        "connection/?state=closed",
        "connection/?q=alice",
        "alert/",
    )
    for width, name in product((390, 1200, 1440), names):
        await page.set_viewport_size({"width": width, "height": 900})
        await page.goto(f"{desk.server.url}/admin/connections/{name}")
        shown_width = await page.evaluate("document.documentElement.scrollWidth")
        assert shown_width <= width, (name, width)
        whole = ".live-tabs, .live-ranges, .live-trend svg"
        if width > 390:
            # The list of connections has eleven columns.
            whole += ", .model-connection .results"
        clipped = await page.eval_on_selector_all(
            whole,
            "all => all.filter(one => one.scrollWidth > one.clientWidth + 1)"
            ".map(one => one.outerHTML.slice(0, 80))",
        )
        assert clipped == [], (name, width)
    assert desk.complaints == []


async def test_it_can_be_used_with_the_keyboard_alone(
    desk: Desk, browser: Browser
) -> None:
    page = await desk.open_page(browser, "root")
    await page.wait_for_selector("#live-badge.is-live")
    await wait_for_map(page, OPENED)
    await page.focus("[data-client=alice]")
    await page.keyboard.press("Enter")
    await page.wait_for_selector("#live-details:not([hidden]) table")
    assert await page.evaluate("document.activeElement.id") == "live-details"
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.className") == "live-close"
    await page.keyboard.press("Escape")
    assert await page.is_hidden("#live-details")
    focused = await page.evaluate("document.activeElement.dataset.client")
    assert focused == "alice"


@pytest.mark.parametrize("code", [None, 4003])
async def test_it_polls_where_the_socket_fails(
    desk: Desk, browser: Browser, code: int | None
) -> None:
    """An admin site whose rule needs its middleware refuses the socket with 4003."""
    context = await browser.new_context()
    page = await context.new_page()
    session, url = desk.sessions["root"], desk.server.url
    await context.add_cookies([{"name": "sessionid", "value": session, "url": url}])
    await page.route_web_socket(
        re.compile("/ws/"), lambda socket: socket.close(code=code)
    )
    await page.goto(desk.server.url + URL)
    await desk.join("carol", 1)
    await wait_for_map(page, {**OPENED, "carol": 1})
    assert await page.inner_text("#live-badge") == "Live (polling)"


async def test_it_says_when_it_is_stale(desk: Desk, browser: Browser) -> None:
    page = await desk.open_page(browser, "root")
    await page.wait_for_selector("#live-badge.is-live")
    desk.server.kill()
    await page.wait_for_selector("#live-badge.is-stale")
