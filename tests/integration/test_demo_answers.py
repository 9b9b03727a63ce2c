"""Test in Chromium what people do with answers on the demo page."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from playwright.async_api import Browser, Locator, Page, expect

from connections.testing import LiveServer
from tests.integration.browser import PASSWORD, Person, open_browser
from tests.project import ProjectServers

QUESTION = "Why should clients not reconnect all at once?"
WEB_QUESTION = "Search the web too: what does a server do with slow readers?"


def share(servers: ProjectServers, delay_seconds: float = 0.01) -> LiveServer:
    """Return a server with two users, at which three agents answer."""
    server = servers.share(
        environment={
            "SESSIONS_RESPONDER": "orchestra.agents.AgentsResponder",
            "AGENTS_DELAY_SECONDS": str(delay_seconds),
        }
    )
    if not server.run(User.objects.count):
        create: Any = User.objects.create_user
        for name in ("alice", "bob"):
            server.run(create, name, password=PASSWORD)
    return server


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with open_browser() as browser:
        yield browser


def again(page: Page, number: int) -> Locator:
    """Return the button of an answer; the first has the number 0."""
    return page.get_by_role("button", name="Regenerate this answer").nth(number)


async def test_an_answer_is_regenerated_in_its_place(
    shared_servers: ProjectServers, browser: Browser
) -> None:
    """The former one can be seen, also after a reload and in another tab."""
    server = share(shared_servers)
    person = Person(server, await browser.new_context())
    tab = await person.sign_in("alice")
    page = tab.page
    await tab.say(QUESTION)
    (_, first) = await tab.wait_for_answers(1)
    await tab.say("hello")
    await tab.wait_for_answers(2)
    other = await person.open_tab(page.url.removeprefix(server.url))
    await other.wait_for_answers(2)
    await again(page, 0).press("Enter")
    fold = page.locator(".entry > .fold:not([hidden])")
    await expect(fold.locator("summary").first).to_have_text("Former answer")
    await tab.wait_for_answers(2)
    shown = await tab.read()
    assert [one.offset for one in shown] == [1, 5, 3, 4]
    assert "Clients that lost a server return all at once" in shown[1].text
    await again(page, 0).click()
    await expect(fold.locator("summary").first).to_have_text("2 former answers")
    for one in (tab, other):
        await one.wait_for_answers(2)
        await expect(one.page.locator('.entry[data-offset="6"]')).to_have_count(1)
        assert [entry.offset for entry in await one.read()] == [1, 6, 3, 4]
    await page.reload()
    await tab.wait_for_answers(2)
    assert [one.offset for one in await tab.read()] == [1, 6, 3, 4]
    await fold.locator("summary").first.press("Enter")
    former = fold.locator(".parts")
    await expect(former).to_have_count(2)
    texts = [await one.locator(".text").text_content() for one in await former.all()]
    assert first.text in texts
    assert person.complaints == []


async def test_an_answer_that_was_stopped_is_given_again(
    shared_servers: ProjectServers, browser: Browser
) -> None:
    server = share(shared_servers, delay_seconds=0.3)
    person = Person(server, await browser.new_context())
    tab = await person.sign_in("alice")
    await tab.say(QUESTION)
    stop = tab.page.get_by_role("button", name="Stop this answer")
    await expect(stop).to_be_visible()
    await expect(again(tab.page, 0)).to_be_hidden()
    await stop.press("Enter")
    await tab.wait_for_answers(1, "cancelled")
    await again(tab.page, 0).click()
    await expect(tab.page.locator('.entry[data-offset="3"]')).to_have_attribute(
        "data-state", "streaming"
    )
    await stop.press("Enter")
    shown = await tab.wait_for_answers(1, "cancelled")
    assert [one.offset for one in shown] == [1, 3]
    assert person.complaints == []


@pytest.mark.parametrize("decision", ["Approve", "Deny"])
async def test_a_tool_call_waits_for_a_person(
    shared_servers: ProjectServers, browser: Browser, decision: str
) -> None:
    """Also across a reload; the other tab shows who decided."""
    server = share(shared_servers)
    person = Person(server, await browser.new_context())
    tab = await person.sign_in("alice")
    page = tab.page
    await tab.say(WEB_QUESTION)
    card = page.locator(".tool").nth(1)
    await expect(card.locator(".tool-state")).to_have_text("asks for approval")
    announced = page.locator("#announcement")
    await expect(announced).to_have_text("A tool call asks for approval.")
    await page.reload()
    other = await person.open_tab(page.url.removeprefix(server.url))
    button = card.get_by_role("button", name=f"{decision} this call")
    await button.press("Enter")
    for one in (tab, other):
        await one.wait_for_answers(1)
        card = one.page.locator(".tool").nth(1)
        is_approved = decision == "Approve"
        await expect(card.locator(".tool-state")).to_have_text(
            "done" if is_approved else "denied"
        )
        decided = "Approved by you" if is_approved else "Denied by you"
        await expect(card.get_by_text(decided)).to_be_visible()
        await expect(card.locator(".tool-question")).to_be_hidden()
        results = one.page.locator(".tool summary")
        await expect(results).to_have_count(2 if is_approved else 1)
    assert person.complaints == []


async def test_a_question_that_nobody_answers_goes_with_its_answer(
    shared_servers: ProjectServers, browser: Browser
) -> None:
    server = share(shared_servers)
    person = Person(server, await browser.new_context())
    tab = await person.sign_in("alice")
    await tab.say(WEB_QUESTION)
    card = tab.page.locator(".tool").nth(1)
    await expect(card.get_by_role("button", name="Deny this call")).to_be_visible()
    await tab.page.get_by_role("button", name="Stop this answer").press("Enter")
    await tab.wait_for_answers(1, "cancelled")
    await expect(card.locator(".tool-state")).to_have_text("no result")
    await expect(card.locator(".tool-question")).to_be_hidden()
    assert person.complaints == []
