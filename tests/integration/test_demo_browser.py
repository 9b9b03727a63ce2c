"""Test in Chromium that the demo page shows every message once and in order."""

import contextlib
import json
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from playwright.async_api import Browser

from connections.testing import LiveServer, Servers, free_port, wait_until
from connections.testing.waiting import scale
from tests.integration.browser import PASSWORD, Person, Shown, Tab, open_browser
from tests.integration.redis_process import RedisProcess
from tests.project import make_server

LONG = " ".join(f"{number} naïve 👩‍👩‍👧 e\u0301 日本語 🇫🇷" for number in range(1, 25))
"""Emoji of several code points, combining characters, flags: 120 words."""
ENVIRONMENT = {
    "SESSIONS_RESPONDER": "orchestra.responders.EchoResponder",
    # A browser on a slow machine is slow as well: the answer goes on meanwhile.
    "ECHO_DELAY_SECONDS": f"{scale(0.015):.3f}",
    "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
}


@pytest.fixture(scope="module")
def migrated_database(
    migrated_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A copy with a user."""
    folder = tmp_path_factory.mktemp("alice")
    shutil.copy(migrated_database, folder)
    server = make_server(folder, environment=ENVIRONMENT)
    create: Any = User.objects.create_superuser
    server.run(create, "alice", "alice@example.com", PASSWORD)
    return folder / migrated_database.name


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with open_browser() as browser:
        yield browser


def start(servers: Servers, **options: Any) -> LiveServer:
    """Start a server whose answers stream word by word."""
    config = {"node__beat_seconds": 0.2, **options.pop("config", {})}
    environment = {**ENVIRONMENT, **options.pop("environment", {})}
    return servers.start(config=config, environment=environment, **options)


@contextlib.asynccontextmanager
async def signed_in(
    server: LiveServer, browser: Browser, **options: Any
) -> AsyncIterator[tuple[Person, Tab]]:
    """Sign a user in; fail if a page reported an error."""
    context = await browser.new_context(**options)
    person = Person(server, context)
    yield person, await person.sign_in("alice")
    await context.close()
    assert person.complaints == []


def assert_conversation(shown: list[Shown], *said: str) -> None:
    """Messages and echoes alternate, complete and without duplicates."""
    assert [one.offset for one in shown] == list(range(1, 2 * len(said) + 1))
    assert [one.text for one in shown] == [text for one in said for text in (one, one)]
    assert [one.sender for one in shown] == ["client", "server"] * len(said)
    assert {one.state for one in shown} == {"done"}


def read_log(server: LiveServer) -> list[tuple[int, str, str]]:
    """Return offset, sender and text of every entry in the database."""
    query = 'select "offset", sender, data from sessions_history_historyentry'
    with contextlib.closing(sqlite3.connect(server.folder / "db.sqlite3")) as database:
        rows = database.execute(f"{query} order by session_id, 1").fetchall()
    return [(offset, sender, json.loads(data)["text"]) for offset, sender, data in rows]


def as_rows(shown: list[Shown]) -> list[tuple[int, str, str]]:
    return [(one.offset, one.sender, one.text) for one in shown]


async def test_a_reload_in_the_middle_of_an_answer(
    servers: Servers, browser: Browser
) -> None:
    """A second tab shows the same entries."""
    server = start(servers)
    async with signed_in(server, browser) as (person, tab):
        await tab.say(LONG)
        await tab.wait_for_text(40)
        second = await person.open_tab(tab.page.url.removeprefix(server.url))
        await tab.page.reload()
        assert_conversation(await tab.wait_for_answers(1), LONG)
        assert_conversation(await second.wait_for_answers(1), LONG)
        await second.say("from the second")
        assert_conversation(await tab.wait_for_answers(2), LONG, "from the second")
        await second.wait_for_answers(2)
        assert await second.read() == await tab.read()
        assert as_rows(await tab.read()) == read_log(server)


async def test_a_network_that_is_gone_for_longer_than_the_heartbeat(
    servers: Servers, browser: Browser
) -> None:
    """The connection looks open meanwhile; another device continues."""
    server = start(servers, config={"ping_interval_seconds": 1})
    async with signed_in(server, browser) as (person, tab):
        await tab.say("before")
        await tab.wait_for_answers(1)
        other = Person(server, await browser.new_context())
        elsewhere = await other.sign_in("alice")
        path = tab.page.url.removeprefix(server.url)
        await elsewhere.page.goto(server.url + path)
        await elsewhere.wait_for_answers(1)
        await person.context.set_offline(True)
        await elsewhere.say(LONG)
        await tab.wait_for_state("waiting")
        await tab.say("typed without a network")
        assert await tab.read_fact("pending") == "1"
        await elsewhere.wait_for_answers(2)
        await person.context.set_offline(False)
        shown = await tab.wait_for_answers(3)
        assert_conversation(shown, "before", LONG, "typed without a network")
        assert await tab.read_fact("outcome") == "resumed"
        await elsewhere.wait_for_answers(3)
        assert await elsewhere.read() == shown
        await other.context.close()


async def test_a_server_that_is_killed_and_started_again(
    servers: Servers, browser: Browser
) -> None:
    """Recorded entries remain, and the answer keeps its text so far."""
    config = {"node__node_timeout_seconds": scale(1), "node__lease_seconds": scale(1)}
    # It must not end before the kill.
    endless = " ".join([LONG] * 10)
    server = start(servers, config=config)
    async with signed_in(server, browser) as (_, tab):
        await tab.say("before")
        await tab.wait_for_answers(1)
        await tab.say(endless)
        await tab.wait_for_text(60)
        server.kill()
        await tab.wait_for_state("waiting")
        await tab.say("said to nobody")
        server.start()
        await tab.wait_for_answers(1, "interrupted")
        shown = await tab.wait_for_answers(2)
        assert [one.offset for one in shown] == [1, 2, 3, 4, 5, 6]
        assert [one.sender for one in shown] == ["client", "server"] * 3
        said = [one.text for one in shown if one.sender == "client"]
        assert said == ["before", endless, "said to nobody"]
        assert endless.startswith(shown[3].text)
        assert shown[3].state == "interrupted"
        assert as_rows(shown) == read_log(server)


async def test_a_rolling_restart(servers: Servers, browser: Browser) -> None:
    """One node replaces another on the same port during an answer."""
    redis = RedisProcess().start()
    options: dict[str, Any] = {
        "port": free_port(),
        "arguments": ("--reuse-port",),
        "config": {"drain__grace_seconds": scale(4)},
        "environment": {"REDIS_URL": redis.url},
    }
    try:
        old = start(servers, **options)
        async with signed_in(old, browser) as (_, tab):
            await tab.say(LONG)
            await tab.wait_for_text(40)
            start(servers, folder=old.folder, **options)
            old.signal(signal.SIGTERM)
            await wait_until(lambda: not old.is_running, 30)
            assert_conversation(await tab.wait_for_answers(1), LONG)
            await tab.wait_for_state("open")
            await tab.say("to the next one")
            shown = await tab.wait_for_answers(2)
            assert_conversation(shown, LONG, "to the next one")
            assert await tab.read_fact("outcome") in ("resumed", "nothing missed")
            assert as_rows(shown) == read_log(old)
    finally:
        servers.stop_all()
        redis.remove()


async def test_six_tabs_and_use_here(servers: Servers, browser: Browser) -> None:
    """The limit is five: the first tab is evicted, shows it, and returns on request."""
    server = start(servers)
    async with signed_in(server, browser) as (person, first):
        await first.say("one of six")
        await first.wait_for_answers(1)
        path = first.page.url.removeprefix(server.url)
        others = [await person.open_tab(path) for _ in range(5)]
        for tab in others:
            await tab.wait_for_state("open")
        await first.wait_for_state("closed")
        assert await first.page.text_content("#notice-title") == "In use elsewhere"
        await others[4].say("while one is away")
        await others[0].wait_for_answers(2)
        assert len(await first.read()) == 2
        # It does not reconnect by itself: two tabs would evict each other for ever.
        await first.page.evaluate("window.dispatchEvent(new Event('online'))")
        assert await first.page.is_visible("#notice")
        await first.page.get_by_role("button", name="Use here").press("Enter")
        await first.wait_for_state("open")
        await others[0].wait_for_state("closed")
        shown = await first.wait_for_answers(2)
        assert_conversation(shown, "one of six", "while one is away")
        assert await others[4].read() == shown


async def test_the_button_that_cuts_the_network(
    servers: Servers, browser: Browser
) -> None:
    """A message sent offline survives a reload of the page."""
    server = start(servers)
    async with signed_in(server, browser) as (_, tab):
        await tab.say(LONG)
        await tab.wait_for_text(20)
        cut = tab.page.get_by_role("button", name="Cut the network")
        await cut.press("Enter")
        await tab.wait_for_state("waiting")
        await tab.say("on the way")
        await tab.page.wait_for_selector('[data-state="pending"]')
        await tab.page.reload()
        assert_conversation(await tab.wait_for_answers(2), LONG, "on the way")


async def test_a_narrow_page_with_the_keyboard_alone(
    servers: Servers, browser: Browser
) -> None:
    """At 390 px nothing overflows; a screen reader announces each answer once."""
    server = start(servers)
    narrow = {"width": 390, "height": 780}
    async with signed_in(server, browser, viewport=narrow) as (_, tab):
        page = tab.page
        await tab.say("word " * 600)
        await tab.wait_for_text(20)
        assert await page.text_content("#announcement") == ""
        await page.get_by_role("button", name="Stop this answer").press("Enter")
        (_, answer) = await tab.wait_for_answers(1, "cancelled")
        assert "word word" in answer.text
        announced = await page.text_content("#announcement") or ""
        assert announced.startswith("Answer: word")
        assert await page.get_by_role("status").first.text_content() == "Connected"
        menu = page.get_by_role("button", name="Conversations")
        await menu.press("Enter")
        assert await menu.get_attribute("aria-expanded") == "true"
        assert await page.get_by_role("link", name="word word").is_visible()
        width = await page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390
