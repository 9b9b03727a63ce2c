"""
Try cross-site WebSocket hijacking in Chromium, from a second origin.

A cookie goes by host, not by port, and SameSite by site: a page on another port
of the victim's host sends the victim's session along with its handshake.
"""

import contextlib
import http.server
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from connections.testing import LiveServer, Servers
from tests.integration.access_changes import AccessChangeProcess
from tests.integration.browser import open_browser

APPLICATION = "tests.integration.consumers:application"

OPEN_SOCKET = """url => new Promise(resolve => {
    const socket = new WebSocket(url);
    socket.onopen = () => socket.send(JSON.stringify({type: "echo", mine: true}));
    socket.onmessage = (event) => resolve("served: " + event.data);
    socket.onclose = (event) => resolve("closed: " + event.code);
})"""


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        if self.path == "/sandboxed":
            self.send_header("Content-Security-Policy", "sandbox allow-scripts")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>Another site</title>")

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def other_site() -> Iterator[int]:
    """The port of a foreign site."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page) as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        yield site.server_port
        site.shutdown()
        thread.join()


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with open_browser() as browser:
        yield browser


@contextlib.asynccontextmanager
async def victim(server: LiveServer, browser: Browser) -> AsyncIterator[Page]:
    """A logged-in user with an empty tab."""
    with AccessChangeProcess(server) as process:
        process.apply("make_user", "victim")
        key = process.apply("log_in", "victim")["result"]
    context = await browser.new_context()
    same_site: Any = "Lax"
    await context.add_cookies(
        [
            {
                "name": "sessionid",
                "value": key,
                "domain": "127.0.0.1",
                "path": "/",
                "httpOnly": True,
                "sameSite": same_site,
            }
        ]
    )
    yield await context.new_page()
    await context.close()


def start(servers: Servers, **config: object) -> LiveServer:
    return servers.start(command="daphne", application=APPLICATION, config=config)


async def try_from(page: Page, address: str, server: LiveServer) -> str:
    """Open a WebSocket to the server from a page of an origin."""
    await page.goto(address)
    return str(await page.evaluate(OPEN_SOCKET, f"{server.ws_url}/json/"))


async def test_a_foreign_page_cannot_open_a_socket_with_the_victims_cookies(
    servers: Servers, browser: Browser, other_site: int
) -> None:
    server = start(servers)
    async with victim(server, browser) as page:
        for address in (
            f"http://127.0.0.1:{other_site}/",
            f"http://localhost:{other_site}/",
            f"http://127.0.0.1:{other_site}/sandboxed",  # Its Origin is null.
        ):
            assert await try_from(page, address, server) == "closed: 1006", address
        assert server.log().count("foreign host or origin") == 3
        own = await try_from(page, f"{server.url}/livez", server)
        assert own.startswith("served: ")


async def test_a_page_that_is_allowed_opens_one(
    servers: Servers, browser: Browser, other_site: int
) -> None:
    """Without the check of Origin the attack would succeed."""
    address = f"http://127.0.0.1:{other_site}"
    server = start(servers, allowed_origins=[address])
    async with victim(server, browser) as page:
        served = await try_from(page, f"{address}/", server)
        assert served.startswith("served: ")
        other = await try_from(page, f"http://localhost:{other_site}/", server)
        assert other == "closed: 1006"
