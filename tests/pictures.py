"""
Take README's screenshots of a running server: python -m tests.pictures

It starts a server of its own and the system's Chromium. Fonts for emoji
(fonts-noto-color-emoji) are worth having.
"""

import asyncio
import tempfile
from pathlib import Path

from connections.testing import LiveServer
from tests.integration.browser import PASSWORD, Person, open_browser
from tests.integration.nginx import make_certificate
from tests.integration.redis_process import RedisProcess
from tests.integration.shipped import RESOLVE, Site, open_site
from tests.project import ROOT, make_server

_FOLDER = ROOT / "docs" / "_static"
_QUESTION = "How does an answer survive when the network is gone?"


async def take_demo(server: LiveServer) -> None:
    """Show a conversation while an answer is being written."""
    async with open_browser() as browser:
        context = await browser.new_context(viewport={"width": 1080, "height": 920})
        tab = await Person(server, context).sign_in("alice")
        await tab.say(_QUESTION)
        await tab.wait_for_text(320)
        await tab.page.screenshot(path=_FOLDER / "demo.png", animations="disabled")


async def take_deploy(site: Site) -> None:
    """Show a user who has signed in through nginx over TLS, and the connection."""
    async with open_browser(RESOLVE) as browser:
        context = await browser.new_context(
            viewport={"width": 1080, "height": 640}, ignore_https_errors=True
        )
        tab = await Person(site, context).sign_in("alice")
        await tab.say("Hello through nginx, over TLS")
        await tab.page.click("summary")
        await tab.page.wait_for_timeout(1000)
        await tab.page.screenshot(path=_FOLDER / "deploy.png", animations="disabled")


def show_deploy(folder: Path) -> None:
    """Start the shipped site, and take its screenshot."""
    database_url = f"sqlite:///{folder / 'db.sqlite3'}"
    make_server(folder).manage("migrate", "--verbosity", "0")
    redis = RedisProcess(password="of-the-pictures-alone").start()
    certificate = make_certificate(folder)
    try:
        with open_site(
            folder,
            certificate,
            database_url=database_url,
            redis_url=redis.url,
            config={},
        ) as site:
            asyncio.run(take_deploy(site))
    finally:
        redis.remove()


def main() -> None:
    """Take every screenshot."""
    with tempfile.TemporaryDirectory() as folder:
        show_deploy(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        server = make_server(
            Path(folder),
            environment={
                "SESSIONS_RESPONDER": "orchestra.agents.AgentsResponder",
                "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
            },
        )
        server.manage("migrate", "--verbosity", "0")
        address = ("--username", "alice", "--email", "alice@example.com")
        server.manage("createsuperuser", "--noinput", *address)
        server.start()
        try:
            asyncio.run(take_demo(server))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
