"""Start what deploy/ ships: two nodes with its environment, behind its nginx."""

import contextlib
import http.client
import shlex
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from django.contrib.auth.models import User
from websockets.asyncio.client import connect
from websockets.typing import Origin

from connections.testing import LiveServer
from connections.testing.waiting import scale
from tests.integration.browser import PASSWORD
from tests.integration.nginx import Nginx, open_to_workers
from tests.project import ROOT, make_server

DEPLOY = ROOT / "deploy"
HOST = "chat.example.com"
RESOLVE = f"--host-resolver-rules=MAP {HOST} 127.0.0.1"
"""An argument of Chromium."""


def read_environment() -> dict[str, str]:
    """Return the variables of environment.example, as systemd reads them."""
    lines = (DEPLOY / "environment.example").read_text().splitlines()
    pairs = (line.partition("=") for line in lines if line and line[0] != "#")
    return {name: value for name, _, value in pairs}


def read_arguments(port: int) -> tuple[str, ...]:
    """Return the arguments of `serve` in the unit of a node."""
    unit = (DEPLOY / "systemd" / "orchestra@.service").read_text()
    (line,) = (one for one in unit.splitlines() if one.startswith("ExecStart="))
    return tuple(shlex.split(line.partition(" serve ")[2].replace("%i", str(port))))


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response."""

    status: int
    headers: http.client.HTTPMessage
    text: str


class Visitor:
    """A client of the site that keeps its cookies, as a browser does."""

    def __init__(
        self,
        site: "Site",
        address: str = "127.0.0.8",
        cookies: Mapping[str, str] | None = None,
    ) -> None:
        self.address = address
        self.set_cookies: list[str] = []
        self._site = site
        self._cookies = dict(cookies or {})

    def at(self, address: str) -> "Visitor":
        """Return a visitor at another address with the same session."""
        return Visitor(self._site, address, self._cookies)

    def ask(self, method: str, path: str, form: dict[str, str] | None = None) -> Answer:
        """Send a request over TLS through nginx."""
        headers = {"Host": self._site.authority, "Cookie": self._cookie}
        body = None
        if form is not None:
            body = urlencode(
                {**form, "csrfmiddlewaretoken": self._cookies["csrftoken"]}
            )
            headers["Origin"] = self._site.url
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        return self._send(method, path, body, headers)

    def get(self, path: str, **headers: str) -> Answer:
        """Send a GET request with headers."""
        return self._send("GET", path, None, {"Host": self._site.authority, **headers})

    def sign_in(self) -> Answer:
        """Sign in by the form."""
        self.ask("GET", "/sign-in/")
        form = {"username": "alice", "password": PASSWORD, "next": "/"}
        return self.ask("POST", "/sign-in/", form)

    def connect(self, path: str = "/ws/sessions/new/", **options: Any) -> connect:
        """Return connect() for a WebSocket of a page of the site."""
        return connect(
            f"wss://{self._site.authority}{path}",
            host="127.0.0.1",
            port=self._site.nginx.port,
            ssl=self._site.tls,
            origin=Origin(self._site.url),
            additional_headers={"Cookie": self._cookie},
            local_addr=(self.address, 0),
            **({"open_timeout": scale(20)} | options),
        )

    @property
    def _cookie(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self._cookies.items())

    def _send(
        self, method: str, path: str, body: str | None, headers: dict[str, str]
    ) -> Answer:
        connection = http.client.HTTPSConnection(
            "127.0.0.1",
            self._site.nginx.port,
            context=self._site.tls,
            source_address=(self.address, 0),
            timeout=scale(30),
        )
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            text = response.read().decode()
        for cookie in response.headers.get_all("Set-Cookie", ()):
            self.set_cookies.append(cookie)
            name, _, value = cookie.partition(";")[0].partition("=")
            self._cookies[name] = value
        return Answer(response.status, response.headers, text)


@dataclass(slots=True)
class Site:
    """Two nodes behind nginx."""

    nginx: Nginx
    nodes: tuple[LiveServer, LiveServer]
    tls: ssl.SSLContext
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def authority(self) -> str:
        """Host and port, as a browser shows them."""
        return f"{HOST}:{self.nginx.port}"

    @property
    def url(self) -> str:
        """The origin of the site's pages."""
        return f"https://{self.authority}"


@contextlib.contextmanager
def open_site(
    folder: Path,
    certificate: tuple[Path, Path],
    *,
    database_url: str,
    redis_url: str,
    config: dict[str, object],
) -> Iterator[Site]:
    """Start the site on a migrated database with a user, and stop it on exit."""
    environment = read_environment()
    stores = {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
    nodes = [make_node(folder, {**environment, **stores}, config) for _ in range(2)]
    first, second = nodes
    create: Any = User.objects.create_superuser
    first.run(create, "alice", "alice@example.com", PASSWORD)
    with contextlib.ExitStack() as stack:
        for node in nodes:
            stack.callback(node.stop)
            node.start(is_ready=False)
        for node in nodes:
            node.wait_ready()
        nginx_folder = stack.enter_context(open_to_workers(folder / "nginx"))
        nginx = Nginx(nginx_folder, certificate, (first.port, second.port))
        nginx.check()
        stack.callback(nginx.stop)
        nginx.start()
        tls = ssl.create_default_context(cafile=str(certificate[0]))
        yield Site(nginx, (first, second), tls, environment)


def make_node(
    folder: Path, environment: dict[str, str], config: dict[str, object]
) -> LiveServer:
    """Prepare a node as its unit of systemd starts it."""
    # Only development and tests set DEBUG.
    node = make_server(folder, environment={**environment, "DEBUG": ""}, config=config)
    node.arguments = read_arguments(node.port)
    return node
