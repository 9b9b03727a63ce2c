"""
What staff on duty look at: dashboard, log, alerts, probe and runbook.

`INCIDENT_PICTURES=docs/_static pytest tests/incidents` takes the pictures of
docs/howto/operate.md.
"""

import asyncio
import html
import json
import os
import re
import shlex
import subprocess
import time
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model

from connections.alerts.runbook import read_commands
from connections.testing import LiveServer, Servers, wait_until
from connections.testing.waiting import scale
from tests.connections.login import log_in
from tests.faults.health import read_health
from tests.integration.browser import open_browser

DASHBOARD = "/admin/connections/livedashboard/"
QUERY = "range=15m&top=messages"
PATIENCE_SECONDS = 15

RULES = [
    {"name": "high_error_rate", "minimum": 5, "threshold": 0.001, "for_seconds": 0},
    {"name": "pool_degraded", "for_seconds": 0},
    {"name": "database_down", "for_seconds": 1},
    {"name": "step_overdue", "enabled": False},
    {"name": "sweeper_silent", "enabled": False},
]
"""Rules that fire sooner than those of a real project; the same conditions."""

CONFIG: dict[str, Any] = {
    "node__beat_seconds": 0.2,
    # What stands still for so long on a slow machine would raise an alert.
    "node__lease_seconds": scale(3),
    "node__node_timeout_seconds": scale(2),
    "node__database_timeout_seconds": scale(2),
    "alerts": json.dumps(RULES),
}


def takes_pictures() -> bool:
    """Return True if the tests take the pictures of the incidents."""
    return bool(os.environ.get("INCIDENT_PICTURES"))


def make_environment(**values: str) -> dict[str, str]:
    """Return the environment of servers whose sessions this process can create."""
    return {
        "DJANGO_SETTINGS_MODULE": "tests.incidents.settings",
        "SECRET_KEY": settings.SECRET_KEY,
        **values,
    }


def start_sweeper(servers: Servers, server: LiveServer) -> LiveServer:
    """Start a sweeper that evaluates the alerts twice a second."""
    environment = {
        name: value
        for name, value in server.environment.items()
        if name in ("DJANGO_SETTINGS_MODULE", "SECRET_KEY", "DATABASE_URL")
    }
    return servers.start(
        folder=server.folder,
        command="sweep_idle_connections",
        arguments=("--interval", "0.5"),
        environment=environment,
        config=CONFIG,
        is_ready=False,
    )


def sign_in(server: LiveServer) -> str:
    """Create an administrator in the database of a server; return the session."""

    def create() -> str:
        return log_in(get_user_model().objects.create_superuser("duty"))

    return server.run(create)


@dataclass(kw_only=True)
class Desk:
    """The view of one member of staff, through one server."""

    server: LiveServer
    session: str
    log_of: LiveServer | None = None
    """The process whose log is read; by default the server."""

    def read_dashboard(self) -> str:
        """Return the text of all panels, without tags."""
        request = urllib.request.Request(
            f"{self.server.url}{DASHBOARD}panels/?{QUERY}",
            headers={"Cookie": f"sessionid={self.session}"},
        )
        with urllib.request.urlopen(request, timeout=scale(PATIENCE_SECONDS)) as answer:
            panels = json.load(answer)["html"]
        text = re.sub(r"<[^>]*>", " ", " ".join(panels.values()))
        return " ".join(html.unescape(text).split())

    def read_log(self) -> str:
        """Return the log."""
        return (self.log_of or self.server).log()

    def read_alerts(self) -> str:
        """Return what `manage.py alerts` prints."""
        return self.server.call("alerts")

    def read_reasons(self) -> str:
        """Return the status and the reasons of the probe."""
        _, health = read_health(self.server)
        return " ".join([health["status"], *health.get("reasons", ())])

    def run_runbook(self, rule: str) -> list[str]:
        """Run the commands in a rule's section; return what each printed."""
        return [self._run(command) for command in read_commands(rule)]

    def _run(self, command: str) -> str:
        if command.startswith("manage.py "):
            return self.server.call(*shlex.split(command)[1:])
        done = subprocess.run(
            ["sh", "-c", command],
            env={**os.environ, "PORT": str(self.server.port)},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout + done.stderr

    async def take_pictures(
        self, name: str, first: str = ".live-bar", last: str = ".live-tiles"
    ) -> None:
        """Take pictures from one element to another, light and dark, if asked to."""
        if not takes_pictures():
            return
        folder = os.environ["INCIDENT_PICTURES"]
        url = self.server.url
        async with open_browser() as browser:
            for scheme in ("light", "dark"):
                context = await browser.new_context(
                    viewport={"width": 1200, "height": 900},
                    color_scheme=scheme,
                    java_script_enabled=False,
                )
                await context.add_cookies(
                    [{"name": "sessionid", "value": self.session, "url": url}]
                )
                page = await context.new_page()
                await page.goto(f"{url}{DASHBOARD}?{QUERY}")
                top = await page.locator(first).bounding_box()
                bottom = await page.locator(last).bounding_box()
                if top is None or bottom is None:
                    raise AssertionError(f"the dashboard shows no {first} or {last}")
                await page.screenshot(
                    path=f"{folder}/incident-{name}-{scheme}.png",
                    full_page=True,
                    clip={
                        "x": top["x"] - 12,
                        "y": top["y"] - 12,
                        "width": top["width"] + 24,
                        "height": bottom["y"] + bottom["height"] - top["y"] + 24,
                    },
                )

    async def wait_named(self, incident: str, **expected: str) -> None:
        """
        Wait until each place names the cause; print the seconds that it took.

        Places are dashboard, log, alerts and reasons.
        """
        began_at = time.monotonic()
        read: dict[str, Callable[[], str]] = {
            "dashboard": self.read_dashboard,
            "log": self.read_log,
            "alerts": self.read_alerts,
            "reasons": self.read_reasons,
        }

        async def wait_for(place: str) -> str:
            text = ""

            async def is_named() -> bool:
                nonlocal text
                text = await asyncio.to_thread(read[place])
                return re.search(expected[place], text) is not None

            try:
                await wait_until(is_named, PATIENCE_SECONDS)
            except TimeoutError:
                raise AssertionError(
                    f"{incident}: {place} does not say {expected[place]!r}: {text}"
                ) from None
            return f"{place} {time.monotonic() - began_at:.1f} s"

        waits: list[Awaitable[str]] = [wait_for(place) for place in expected]
        print(f"{incident}: {', '.join(await asyncio.gather(*waits))}")
