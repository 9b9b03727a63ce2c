"""Test in Chromium that a second person joins a conversation by a link."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from playwright.async_api import Browser, Locator, Page, expect

from connections.testing import LiveServer
from tests.integration.browser import PASSWORD, Person, Tab, open_browser
from tests.project import ProjectServers

ENVIRONMENT = {
    "SESSIONS_RESPONDER": "orchestra.responders.EchoResponder",
    "ECHO_DELAY_SECONDS": "0",
}


@pytest.fixture(scope="module")
def server(shared_servers: ProjectServers) -> LiveServer:
    """A server with two users."""
    config = {"presence__linger_seconds": 0.2}
    server = shared_servers.share(config=config, environment=ENVIRONMENT)
    create: Any = User.objects.create_user
    for name in ("alice", "bob"):
        server.run(create, name, password=PASSWORD)
    return server


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with open_browser() as browser:
        yield browser


async def begin(server: LiveServer, browser: Browser) -> Tab:
    """Return alice's page, with a conversation of one message."""
    context = await browser.new_context(viewport={"width": 390, "height": 780})
    tab = await Person(server, context).sign_in("alice")
    await tab.say("What alice said")
    await tab.wait_for_answers(1)
    return tab


async def make_link(page: Page, role: str = "writer") -> str:
    await page.get_by_role("button", name="Invite").click()
    await page.select_option("#invitation-role", role)
    await page.get_by_role("button", name="Make a link").click()
    await expect(page.locator("#invitation-link")).to_be_visible()
    link = await page.input_value("#invitation-link")
    await page.get_by_role("button", name="Close").click()
    return link


async def join(person: Person, server: LiveServer, link: str) -> Tab:
    """Open a link as bob, who has to sign in first."""
    tab = await person.open_tab(link.removeprefix(server.url))
    await tab.page.fill("#id_username", "bob")
    await tab.page.fill("#id_password", PASSWORD)
    await tab.page.keyboard.press("Enter")
    await tab.page.get_by_role("button", name="Join").click()
    await tab.wait_for_state("open")
    return tab


def find_people(page: Page) -> Locator:
    return page.locator('.person[data-here="true"]')


async def test_a_second_person_joins_by_a_link_and_leaves(
    server: LiveServer, browser: Browser
) -> None:
    """Both see who is here, who types, and whose each message is."""
    alice = await begin(server, browser)
    other = Person(server, await browser.new_context())
    bob = await join(other, server, await make_link(alice.page))
    for tab, names in ((alice, ["You", "bob"]), (bob, ["alice", "You"])):
        await expect(find_people(tab.page)).to_have_count(2)
        people = tab.page.locator(".person span:nth-child(2)")
        await expect(people).to_have_text(names)
    await bob.page.focus("#words")
    await bob.page.keyboard.type("What b")
    typing = alice.page.locator("#typing")
    await expect(typing).to_have_text("bob is typing…")
    await bob.page.keyboard.insert_text("ob said")
    await bob.page.keyboard.press("Enter")
    await expect(typing).to_have_text("")
    for tab, names in ((alice, ["You", "bob"]), (bob, ["alice", "You"])):
        await tab.wait_for_answers(2)
        said = tab.page.locator('.entry[data-from="client"]')
        await expect(said.locator(".who")).to_have_text(names)
        await expect(said.locator(".text")).to_have_text(
            ["What alice said", "What bob said"]
        )
        others = tab.page.locator('[data-is-other="true"] .who')
        await expect(others).to_have_text([one for one in names if one != "You"])
    assert await bob.page.is_hidden("#invite")
    assert await bob.page.locator('[data-act="delete"]:visible').count() == 0
    await bob.page.get_by_role("button", name="Leave this conversation").click()
    await bob.wait_for_state("closed")
    title = bob.page.locator("#notice-title")
    await expect(title).to_have_text("Not your conversation any more")
    await expect(alice.page.locator(".person")).to_have_count(1)
    assert other.complaints == []


async def test_a_reader_reads_until_the_owner_removes_it(
    server: LiveServer, browser: Browser
) -> None:
    """The link has been used then: it brings nobody back."""
    alice = await begin(server, browser)
    link = await make_link(alice.page, "reader")
    bob = await join(Person(server, await browser.new_context()), server, link)
    await bob.wait_for_answers(1)
    await expect(bob.page.get_by_placeholder("You may read")).to_be_disabled()
    await expect(bob.page.get_by_role("button", name="Send")).to_be_disabled()
    await alice.say("More from alice")
    await bob.wait_for_answers(2)
    await alice.page.get_by_role("button", name="Remove bob").click()
    await bob.wait_for_state("closed")
    await expect(alice.page.locator(".person")).to_have_count(1)
    await bob.page.goto(link)
    await bob.page.get_by_role("button", name="Join").click()
    refusal = bob.page.get_by_role("alert")
    await expect(refusal).to_have_text(
        "Somebody has joined by this link. It works once."
    )


async def test_the_owner_sees_the_links_and_revokes_one(
    server: LiveServer, browser: Browser
) -> None:
    """An unused link can be revoked; a used one says so as soon as it is used."""
    page = (await begin(server, browser)).page
    revoked, link = await make_link(page), await make_link(page, "reader")
    await page.reload()
    await page.get_by_role("button", name="Invite").click()
    links = page.get_by_role("list", name="Links of this conversation").locator("li")
    await expect(links).to_contain_text(["May read", "May read and write"])
    await expect(links).to_contain_text(["Not used yet", "Not used yet"])
    label = "Revoke the invitation to read and write"
    await page.get_by_role("button", name=label).click()
    await expect(links).to_have_count(1)
    context = await browser.new_context()
    bob = await join(Person(server, context), server, link)
    await expect(links).to_contain_text(["Used "])
    await expect(links.get_by_role("button")).to_have_count(0)
    await bob.page.goto(revoked)
    await bob.page.get_by_role("button", name="Join").click()
    refusal = bob.page.get_by_role("alert")
    await expect(refusal).to_have_text("This link was withdrawn.")


async def test_a_link_that_is_shown_goes_when_it_is_revoked(
    server: LiveServer, browser: Browser
) -> None:
    page = (await begin(server, browser)).page
    await page.get_by_role("button", name="Invite").click()
    await expect(page.locator("#invitations")).to_be_hidden()
    await page.get_by_role("button", name="Make a link").click()
    await expect(page.locator("#invitation-link")).to_be_visible()
    await page.get_by_role("button", name="Revoke").click()
    await expect(page.locator("#invitation-link")).to_be_hidden()
    await expect(page.locator("#invitations")).to_be_hidden()
    await expect(page.locator("#invitation-role")).to_be_focused()


async def test_an_invitation_that_fails_says_why(
    server: LiveServer, browser: Browser
) -> None:
    page = (await begin(server, browser)).page
    await page.route(
        "**/invitations/",
        lambda route: route.fulfill(
            status=503, json={"error": {"code": "unavailable", "message": "Not now."}}
        ),
    )
    await page.get_by_role("button", name="Invite").click()
    await page.get_by_role("button", name="Make a link").click()
    failed = page.locator("#invitation-failed")
    await expect(failed).to_have_text("That did not work: Not now.")
    await page.keyboard.press("Escape")
    await expect(failed).to_be_hidden()
