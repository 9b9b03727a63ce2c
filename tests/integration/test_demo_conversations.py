"""Test in Chromium that one renames, deletes and finds one's conversations."""

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from playwright.async_api import Locator, Page, expect

from connections.testing import LiveServer, Servers, wait_until
from sessions_history.models import SessionMember
from tests.integration.browser import PASSWORD, Person, open_browser

ENVIRONMENT = {
    "SESSIONS_RESPONDER": "orchestra.responders.EchoResponder",
    "ECHO_DELAY_SECONDS": "0",
}
CONVERSATIONS = 15
SHARED = 2
"""The number of an old conversation of somebody else, whose member the user is."""


def make_id(number: int) -> str:
    return f"{number:032x}"


@pytest.fixture
def server(servers: Servers) -> LiveServer:
    """A server with a user and conversations, the last numbers used first."""
    server = servers.start(environment=ENVIRONMENT)
    create: Any = User.objects.create_superuser
    user = server.run(create, "alice", "alice@example.com", PASSWORD)
    # Sessions that nobody has used for long are pruned.
    now = datetime.now(UTC).replace(tzinfo=None)
    with contextlib.closing(sqlite3.connect(server.folder / "db.sqlite3")) as database:
        for number in range(1, CONVERSATIONS + 1):
            database.execute(
                "insert into sessions_history_session (session_id, client_id, epoch,"
                " last_offset, title, last_seen_at) values (?, ?, 'e', 1, ?, ?)",
                (
                    make_id(number),
                    f"user:{user.pk}",
                    f"Plan {number}",
                    str(now - timedelta(hours=CONVERSATIONS - number)),
                ),
            )
            database.execute(
                'insert into sessions_history_historyentry (session_id, "offset",'
                " kind, sender, data, state)"
                " values (?, 1, 'message', 'client', '{\"text\":\"hello\"}', 'done')",
                (make_id(number),),
            )
        shared = (f"guest:{make_id(0)}", make_id(SHARED))
        database.execute(
            "update sessions_history_session set client_id = ? where session_id = ?",
            shared,
        )
        database.commit()
    server.run(
        SessionMember.objects.create,
        session_id=make_id(SHARED),
        user_id=user.pk,
        role="writer",
    )
    return server


@pytest.fixture
async def person(server: LiveServer) -> AsyncIterator[Person]:
    """A user whose pages report no error."""
    async with open_browser() as browser:
        person = Person(server, await browser.new_context())
        yield person
        assert person.complaints == []


def find(page: Page, number: int) -> Locator:
    return page.locator(f'li[data-session="{make_id(number)}"]')


async def press(item: Locator, act: str) -> None:
    await item.hover()
    await item.locator(f'[data-act="{act}"]').click()


async def test_a_conversation_is_renamed(person: Person) -> None:
    page = (await person.sign_in("alice")).page
    item = find(page, 15)
    await press(item, "rename")
    await page.keyboard.insert_text("never")
    await page.keyboard.press("Escape")
    await expect(item.locator(".title")).to_have_text("Plan 15")
    await press(item, "rename")
    await page.keyboard.insert_text("Über <b>alles</b> 👩‍👧")
    await page.keyboard.press("Enter")
    await expect(item.locator(".title")).to_have_text("Über <b>alles</b> 👩‍👧")
    await page.reload()
    await expect(item.locator(".title")).to_have_text("Über <b>alles</b> 👩‍👧")


async def test_a_conversation_is_deleted_once_that_is_confirmed(
    person: Person,
) -> None:
    await person.sign_in("alice")
    open_tab = await person.open_tab(f"/?session={make_id(14)}")
    await open_tab.wait_for_state("open")
    page = (await person.open_tab(f"/?session={make_id(15)}")).page
    item = find(page, 14)
    await press(item, "delete")
    await expect(page.locator("#deletion-name")).to_have_text("Plan 14")
    await page.click("#deletion button[value='']")
    await expect(item).to_be_visible()
    await press(item, "delete")
    await page.click("#deletion button[value=delete]")
    await expect(item).to_have_count(0)
    # The page that shows it says so, and this one stays where it is.
    await open_tab.wait_for_state("closed")
    title = open_tab.page.locator("#notice-title")
    await expect(title).to_have_text("No such conversation")
    assert make_id(15) in page.url
    await press(find(page, 15), "delete")
    await page.click("#deletion button[value=delete]")
    await page.wait_for_url(lambda url: "session" not in url)
    await expect(find(page, 15)).to_have_count(0)
    await expect(find(page, 13)).to_be_visible()


async def test_older_conversations_and_new_ones_are_in_the_list(
    person: Person,
) -> None:
    tab = await person.sign_in("alice")
    page = tab.page
    items = page.locator("#conversation-list li")
    await expect(items).to_have_count(12)
    await page.click("#older")
    await expect(items).to_have_count(CONVERSATIONS)
    await expect(find(page, 1).locator(".title")).to_have_text("Plan 1")
    await expect(find(page, 1).locator("[data-act]")).to_have_count(2)
    await expect(find(page, SHARED).locator("[data-act]")).to_have_count(0)
    await expect(page.locator("#older")).to_be_hidden()
    await tab.say("a new one")
    await tab.wait_for_answers(1)
    await expect(items).to_have_count(CONVERSATIONS + 1)
    newest = items.first
    await press(newest, "rename")
    await page.keyboard.insert_text("Named at once")
    await page.keyboard.press("Enter")
    await expect(newest.locator(".title")).to_have_text("Named at once")


async def test_a_failure_is_shown(person: Person) -> None:
    page = (await person.sign_in("alice")).page
    await page.route(
        "**/api/sessions/**",
        lambda route: route.fulfill(
            status=503,
            json={"error": {"code": "unavailable", "message": "Not now."}},
        ),
    )
    await press(find(page, 15), "delete")
    await page.click("#deletion button[value=delete]")
    await expect(page.locator("#list-status")).to_have_text(
        "That did not work: Not now."
    )
    await expect(find(page, 15)).to_be_visible()
    await wait_until(lambda: person.complaints)
    assert all("503" in one for one in person.complaints)
    person.complaints.clear()
