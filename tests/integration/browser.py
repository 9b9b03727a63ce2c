"""Drive the system's Chromium by Playwright, as a user of the demo page."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from connections.testing import LiveServer, wait_until
from tests.integration.services import find_program

PASSWORD = "correct horse battery"
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
_PATIENCE_MS = 30_000


@contextlib.asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    """Start Chromium, and end it."""
    path = find_program("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=path, args=_ARGUMENTS
        )
        try:
            yield browser
        finally:
            await browser.close()


@dataclass(frozen=True, slots=True)
class Shown:
    """An entry as a page shows it."""

    offset: int
    sender: str
    text: str
    state: str


class Person:
    """Somebody with a browser of their own, signed in."""

    def __init__(self, server: LiveServer, context: BrowserContext) -> None:
        self.context = context
        self.complaints: list[str] = []
        """What the browser said against a page: errors, violated policies."""
        self._server = server

    async def sign_in(self, name: str) -> "Tab":
        """Sign in through the page; return the tab with a new conversation."""
        tab = await self.open_tab()
        await tab.page.fill("#id_username", name)
        await tab.page.fill("#id_password", PASSWORD)
        await tab.page.keyboard.press("Enter")
        await tab.wait_for_state("open")
        return tab

    async def open_tab(self, path: str = "/") -> "Tab":
        """Open one more tab."""
        page = await self.context.new_page()
        page.set_default_timeout(_PATIENCE_MS)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self._record(message.type, message.text))
        await page.goto(self._server.url + path)
        return Tab(page)

    def _record(self, kind: str, text: str) -> None:
        # A refused port is an error to the browser, and nothing wrong here.
        if kind == "error" and "WebSocket connection to" not in text:
            self.complaints.append(text)


class Tab:
    """A tab with the demo page."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def wait_for_state(self, state: str) -> None:
        """Wait until the connection is so."""
        await self.page.wait_for_selector(f'#connection[data-state="{state}"]')

    async def say(self, text: str) -> None:
        """Type a message and send it, with the keyboard alone."""
        await self.page.focus("#words")
        await self.page.keyboard.insert_text(text)
        await self.page.keyboard.press("Enter")

    async def read(self) -> list[Shown]:
        """Return the transcript as it is shown."""
        found: list[dict[str, Any]] = await self.page.eval_on_selector_all(
            "#transcript > .entry",
            """items => items.map((item) => ({
                offset: Number(item.dataset.offset),
                sender: item.dataset.from,
                state: item.dataset.state,
                text: item.querySelector(".text").textContent,
            }))""",
        )
        return [Shown(**one) for one in found]

    async def wait_for_answers(self, count: int, state: str = "done") -> list[Shown]:
        """Wait until so many answers are final; return the transcript."""

        async def are_there() -> list[Shown]:
            shown = await self.read()
            answers = [
                one for one in shown if one.sender == "server" and one.state == state
            ]
            return shown if len(answers) >= count else []

        shown: list[Shown] = await wait_until(are_there, 40)
        return shown

    async def wait_for_text(self, length: int) -> None:
        """Wait until the answer that is being written has so much text."""

        async def is_long() -> bool:
            return any(
                one.state == "streaming" and len(one.text) >= length
                for one in await self.read()
            )

        await wait_until(is_long, 30)

    async def read_fact(self, name: str) -> str:
        """Return what the page says about its connection."""
        text = await self.page.text_content(f'[data-fact="{name}"]')
        return text or ""
