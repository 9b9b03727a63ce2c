"""Follow the tutorial in an empty folder, with a browser."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from connections.testing import wait_until
from connections.testing.waiting import scale
from tests.integration.browser import open_browser
from tests.integration.newcomer import Newcomer
from tests.pages import TUTORIAL, read_blocks, read_section

PASSWORDS = {"ann": "not-a-common-one", "bob": "builder-of-things"}


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    expect.set_options(timeout=scale(15) * 1000)
    async with open_browser() as browser:
        yield browser


def read_commands(title: str) -> list[str]:
    """Return the shell commands of a section."""
    return read_blocks(read_section(TUTORIAL, title), "sh")[0].splitlines()


async def sign_in(browser: Browser, url: str, name: str) -> Page:
    """Open the chat in a window of its own, and sign in."""
    context = await browser.new_context()
    context.set_default_timeout(scale(15_000))
    page = await context.new_page()
    await page.goto(url)
    await page.fill("#id_username", name)
    await page.fill("#id_password", PASSWORDS[name])
    await page.click("button")
    await expect(page.locator("#state")).to_have_text("open")
    return page


async def say(page: Page, text: str) -> None:
    await page.fill("#text", text)
    await page.press("#text", "Enter")


async def say_at_once(page: Page, *texts: str) -> None:
    """Send messages faster than any rate, also on a slow machine."""
    await page.evaluate(
        """(texts) => {
            for (const text of texts) {
                document.querySelector("#text").value = text;
                document.querySelector("#say").requestSubmit();
            }
        }""",
        [*texts],
    )


async def test_the_tutorial_followed_to_the_letter_makes_a_chat(
    tmp_path: Path, browser: Browser
) -> None:
    newcomer = Newcomer(tmp_path)
    before, _, after = TUTORIAL.read_text().partition("\n## Limit the connections\n")
    newcomer.make_project(before)
    *prepare, serve = read_commands("Serve")
    for command in prepare:
        is_interactive = "createsuperuser" in command
        done = newcomer.run(
            f"{command} --noinput" if is_interactive else command,
            DJANGO_SUPERUSER_PASSWORD=PASSWORDS["ann"],
        )
        assert done.returncode == 0, done.stderr
    try:
        await follow_the_rest(newcomer, browser, serve, after)
    finally:
        newcomer.stop()
    assert "Traceback" not in newcomer.log()


async def follow_the_rest(
    newcomer: Newcomer, browser: Browser, serve: str, after: str
) -> None:
    """Serve, limit, end connections, and open the dashboard."""
    server = newcomer.start(serve)
    await wait_until(newcomer.is_serving, 60)
    url = f"http://127.0.0.1:{newcomer.port}/"
    bob, ann = await sign_in(browser, url, "bob"), await sign_in(browser, url, "ann")
    await say(bob, "hello")
    for page in (ann, bob):
        await expect(page.locator("#messages")).to_have_text("bob: hello")
    others = [await bob.context.new_page() for _ in range(3)]
    for page in others:
        await page.goto(url)
        await expect(page.locator("#state")).to_have_text("open")
    await expect(bob.locator("#state")).to_have_text("closed, 4005 evicted")

    newcomer.write_files(after)
    server.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(server.wait, scale(30)) == 0
    newcomer.start(serve)
    await wait_until(newcomer.is_serving, 60)
    for page in (ann, *others):
        await expect(page.locator("#state")).to_have_text("open")
    await say_at_once(others[0], *"123456")
    await expect(others[0].locator("#messages")).to_contain_text("error: rate_limited")

    show, kick, ban, unban = read_commands("End connections")
    # A node records what was opened at its next beat at the latest.
    await wait_until(lambda: newcomer.run(show).stdout.count("user:") == 4)
    assert newcomer.run(kick).returncode == 0
    for page in others:
        await expect(page.locator("#state")).to_have_text("closed, 4009 kicked")
    assert newcomer.run(ban).returncode == 0
    await bob.reload()
    await expect(bob.locator("#state")).to_have_text("closed, 4003 banned")
    assert newcomer.run(unban).returncode == 0

    await ann.goto(f"{url}admin/")
    await ann.click("text=Live dashboard")
    await ann.wait_for_selector("#live-badge.is-live")
    await bob.reload()
    await expect(ann.locator("#live-map [data-client]")).to_have_count(1)
