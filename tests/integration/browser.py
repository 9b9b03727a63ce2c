"""Drive the system's Chromium by Playwright, as a user of the demo page."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

from playwright.async_api import (
    Browser,
    BrowserContext,
    Page,
    async_playwright,
    expect,
)

from connections.testing import wait_until
from connections.testing.waiting import scale
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
_PATIENCE_MS = 15_000


@contextlib.asynccontextmanager
async def open_browser(*arguments: str) -> AsyncIterator[Browser]:
    """Start Chromium with further arguments, and close it on exit."""
    path = find_program("chromium")
    expect.set_options(timeout=scale(_PATIENCE_MS))
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=path, args=[*_ARGUMENTS, *arguments]
        )
        try:
            yield browser
        finally:
            await browser.close()


@dataclass(frozen=True, slots=True)
class Shown:
    """An entry as the page displays it."""

    offset: int
    sender: str
    text: str
    state: str


class HasUrl(Protocol):
    """A server, or a site of several."""

    @property
    def url(self) -> str:
        """The URL of its pages, without a path."""


class Person:
    """A signed-in user with a private browser context."""

    def __init__(self, server: HasUrl, context: BrowserContext) -> None:
        self.context = context
        self.complaints: list[str] = []
        """Errors and policy violations that the browser reported."""
        self._server = server

    async def sign_in(self, name: str) -> "Tab":
        """Sign in on the page; return the tab with a new conversation."""
        tab = await self.open_tab()
        await tab.page.fill("#id_username", name)
        await tab.page.fill("#id_password", PASSWORD)
        await tab.page.keyboard.press("Enter")
        await tab.wait_for_state("open")
        return tab

    async def open_tab(self, path: str = "/") -> "Tab":
        """Open one more tab."""
        page = await self.context.new_page()
        page.set_default_timeout(scale(_PATIENCE_MS))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self._record(message.type, message.text))
        await page.goto(self._server.url + path)
        return Tab(page)

    def _record(self, kind: str, text: str) -> None:
        # The browser logs refused connections as errors; tests expect them.
        if kind == "error" and "WebSocket connection to" not in text:
            self.complaints.append(text)


class Tab:
    """A tab with the demo page."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def wait_for_state(self, state: str) -> None:
        """Wait until the connection has this state."""
        await self.page.wait_for_selector(f'#connection[data-state="{state}"]')

    async def say(self, text: str) -> None:
        """Type and send a message by keyboard."""
        await self.page.focus("#words")
        await self.page.keyboard.insert_text(text)
        await self.page.keyboard.press("Enter")

    async def read(self) -> list[Shown]:
        """Return the displayed transcript."""
        found: list[dict[str, Any]] = await self.page.eval_on_selector_all(
            "#transcript > .entry",
            """items => items.map((item) => ({
                offset: Number(item.dataset.offset),
                sender: item.dataset.from,
                state: item.dataset.state,
                text: [
                    ...item.querySelectorAll(":scope > .text, :scope > .parts .text"),
                ].map((text) => text.textContent).join(""),
            }))""",
        )
        return [Shown(**one) for one in found]

    async def wait_for_answers(self, count: int, state: str = "done") -> list[Shown]:
        """Wait for `count` final answers; return the transcript."""

        async def are_there() -> list[Shown]:
            shown = await self.read()
            answers = [
                one for one in shown if one.sender == "server" and one.state == state
            ]
            return shown if len(answers) >= count else []

        shown: list[Shown] = await wait_until(are_there, 40)
        return shown

    async def wait_for_text(self, length: int) -> None:
        """Wait until an answer, which may be whole by then, has `length` characters."""

        async def is_long() -> bool:
            return any(
                one.sender == "server" and len(one.text) >= length
                for one in await self.read()
            )

        await wait_until(is_long, 30)

    async def read_fact(self, name: str) -> str:
        """Return a value that the page shows about its connection."""
        text = await self.page.text_content(f'[data-fact="{name}"]')
        return text or ""
