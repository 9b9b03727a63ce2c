"""Test in Chromium what the demo page shows of answers in parts."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from playwright.async_api import Page, expect

from connections.testing import LiveServer
from tests.integration.browser import PASSWORD, Person, Tab, open_browser
from tests.project import ProjectServers

AGENTS = "orchestra.agents.AgentsResponder"
PLAYING = "tests.integration.responders.Playing"
EVIL = "<img src=x onerror=window.hit=1><script>window.hit=1</script>"
ADDRESSES = ["javascript:window.hit=1", "data:text/html,x", "//e.test", "/admin/"]


def share(servers: ProjectServers, responder: str, **environment: str) -> LiveServer:
    """Return a server with a user and a responder."""
    server = servers.share(
        environment={"SESSIONS_RESPONDER": responder, **environment},
    )
    if not server.run(User.objects.count):
        create: Any = User.objects.create_superuser
        server.run(create, "alice", "alice@example.com", PASSWORD)
    return server


@pytest.fixture(params=[None, {"width": 390, "height": 780}], ids=["wide", "narrow"])
async def tab(
    request: pytest.FixtureRequest, shared_servers: ProjectServers
) -> AsyncIterator[Tab]:
    """A page whose answers are what each message says; it reports no error."""
    server = share(shared_servers, PLAYING)
    async with open_browser() as browser:
        viewport = {"viewport": request.param} if request.param else {}
        person = Person(server, await browser.new_context(**viewport))
        tab = await person.sign_in("alice")
        yield tab
        assert person.complaints == []
        assert await tab.page.evaluate("window.hit") is None


async def play(tab: Tab, *parts: Any) -> None:
    await tab.say(json.dumps(parts))


async def fits(page: Page) -> bool:
    """Return True if nothing is wider than the page or the transcript."""
    fits: bool = await page.evaluate(
        """() => [document.documentElement, document.getElementById("scroller")]
            .every((one) => one.scrollWidth <= one.clientWidth)"""
    )
    return fits


async def test_an_answer_of_three_agents_is_shown_and_survives_a_reload(
    shared_servers: ProjectServers,
) -> None:
    """Its thoughts are folded, and stay open once they were opened."""
    server = share(shared_servers, AGENTS, AGENTS_DELAY_SECONDS="0.02")
    async with open_browser() as browser:
        person = Person(server, await browser.new_context())
        tab = await person.sign_in("alice")
        page = tab.page
        await page.get_by_role("button", name="How does an answer survive").click()
        thoughts = page.locator(".thoughts").first
        await expect(page.locator(".reasoning").first).to_be_visible()
        await expect(thoughts).to_be_hidden()
        await page.locator(".reasoning summary").first.press("Enter")
        await expect(thoughts).to_be_visible()
        await tab.wait_for_answers(1)
        for _ in range(2):
            agents = page.locator(".agent")
            await expect(agents).to_have_text(["Planner", "Researcher", "Writer"])
            await expect(page.locator(".tool-state")).to_have_text("done")
            links = page.locator(".sources a")
            await expect(links).to_have_count(3)
            await expect(page.locator(".usage")).to_contain_text("demonstration")
            answer = (await tab.read())[1].text
            first = await links.first.get_attribute("href")
            assert first == "https://www.rfc-editor.org/rfc/rfc6455#section-5.5"
            assert "A missing pong is the only sign" in answer
            await expect(thoughts).to_be_visible()
            await page.reload()
            await tab.wait_for_answers(1)
            await page.locator(".reasoning summary").first.click()
        assert person.complaints == []


async def test_all_parts_are_shown(tab: Tab) -> None:
    page = tab.page
    call = {"id": "c", "author": "researcher", "name": "search"}
    await play(
        tab,
        ["reasoning", {"author": "planner", "text": "I think. " * 100}],
        ["tool_call", {**call, "arguments": '{"query":"tides",'}],
        ["tool_call", {**call, "arguments": '"most":3}', "state": "done"}],
        ["tool_call", {**call, "result": [{"title": "the moon" * 30}]}],
        ["tool_call", {"id": "d", "name": "x" * 90, "state": "denied"}],
        ["tool_call", {"id": "r", "name": "run", "state": "running"}],
        ["text", {"author": "writer", "text": "The **moon**."}],
        ["file", {"url": "https://e.test/a", "name": "a.pdf", "media_type": "b/c"}],
        ["error", {"message": "It broke."}],
        ["custom", {"name": "weather", "data": {"celsius": 21}}],
        ["source", {"url": "https://www.e.test/b", "title": "B " * 60}],
        ["usage", {"input_tokens": 7, "output_tokens": 9}],
    )
    await tab.wait_for_answers(1)
    cards = page.locator(".tool")
    await expect(cards.locator(".tool-state")).to_have_text(
        ["done", "denied", "no result"]
    )
    await expect(cards.first.locator("pre").first).to_have_text(
        'query: "tides"\nmost: 3'
    )
    result = cards.first.locator("details")
    await expect(result.locator("summary")).to_have_text("Result: 1 item")
    await result.locator("summary").press("Enter")
    await expect(result.locator("pre")).to_contain_text("the moon")
    assert await page.get_by_label("Tool search: done").count() == 1
    await expect(page.locator(".parts strong")).to_have_text("moon")
    file = page.get_by_role("link", name="a.pdf")
    assert await file.get_attribute("href") == "https://e.test/a"
    await expect(page.locator(".plain-part.why")).to_have_text("Error: It broke.")
    await page.locator("summary", has_text="weather").click()
    await expect(page.locator(".plain-part pre")).to_have_text('{\n  "celsius": 21\n}')
    await expect(page.locator(".usage")).to_have_text("7 tokens read, 9 written")
    source = page.locator(".sources a")
    assert await source.get_attribute("rel") == "noopener noreferrer"
    await expect(page.locator(".sources .small")).to_have_text("e.test")
    assert await fits(page)
    announced = await page.text_content("#announcement")
    assert announced == "Answer: The **moon**."


async def test_hostile_parts_stay_text(tab: Tab) -> None:
    await play(
        tab,
        ["reasoning", {"author": EVIL[:90], "text": EVIL}],
        ["tool_call", {"name": EVIL, "arguments": EVIL, "result": {EVIL: EVIL}}],
        ["tool_call", {"name": EVIL, "arguments": json.dumps({EVIL: EVIL})}],
        ["error", {"message": EVIL}],
        ["custom", {"name": EVIL, "data": EVIL}],
        ["usage", {"input_tokens": 1, "model": EVIL}],
        *(
            [kind, {"url": url, name: EVIL}]
            for kind, name in (("source", "title"), ("file", "name"))
            for url in ADDRESSES
        ),
        ["text", {"text": EVIL}],
    )
    await tab.wait_for_answers(1)
    answer = tab.page.locator(".entry[data-from=server]")
    assert await answer.locator("img, script, a").count() == 0
    await expect(answer.locator(".sources li")).to_have_count(len(ADDRESSES))
    await expect(answer.locator(".file")).to_have_count(len(ADDRESSES))
    assert await fits(tab.page)


async def test_thousands_of_parts_keep_the_page_small(tab: Tab) -> None:
    """The page tells how many it does not show."""
    calls = [["tool_call", {"id": f"c{n}", "state": "done"}] for n in range(150)]
    await play(tab, *calls, ["reasoning", {"text": "a" * 30_000}], "shown not")
    await tab.wait_for_answers(1)
    await expect(tab.page.locator(".part")).to_have_count(100)
    hidden = tab.page.get_by_text("52 more parts are not shown.")
    await expect(hidden).to_be_visible()


async def test_a_call_in_a_stopped_answer_has_no_result(tab: Tab) -> None:
    await play(tab, ["tool_call", {"name": "search", "state": "running"}], "wait")
    state = tab.page.locator(".tool-state")
    await expect(state).to_have_text("runs")
    await tab.page.get_by_role("button", name="Stop this answer").press("Enter")
    await tab.wait_for_answers(1, "cancelled")
    await expect(state).to_have_text("no result")
