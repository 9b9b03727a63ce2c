"""Use a served project as its clients, staff and operators do."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
import websockets
from websockets.asyncio.client import ClientConnection

from connections.testing import LiveServer, assert_closed
from connections.testing.waiting import scale
from tests.adoption.projects import PASSWORD, Project

Check = Callable[["Case"], Awaitable[None]]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    """Register a check under its name."""
    CHECKS[function.__name__] = function
    return function


def add_check(name: str, function: Callable[..., Awaitable[None]], *args: Any) -> None:
    """Register a check of a function and its arguments, behind the case."""

    async def run(case: "Case") -> None:
        await function(case, *args)

    CHECKS[name] = run


_INVITE = """
from django.contrib.auth import get_user_model
from sessions_history import members
from sessions_history.models import Session
session = Session.objects.get()
members.invite(session.pk, "reader")
user = get_user_model()._default_manager.exclude(pk=session.user_id)[0]
members.add(session.pk, user, "writer")
"""


@dataclass
class Case:
    """One project that is served, and those who use it."""

    project: Project
    server: LiveServer
    staff: "Browser" = field(init=False)
    """A superuser who has signed in."""

    def __post_init__(self) -> None:
        self.staff = Browser(self)

    async def populate(self) -> None:
        """Sign staff in, and make a row for each list of the admin."""
        await self.staff.sign_in()
        token = await self.token("root", "--user", "root")
        async with self.connect("/ws/staff/", token) as client:
            await client.send('{"type":"fail"}')
            await read(client, "error")
        async with self.connect(
            "/ws/sessions/new/", token, subprotocols=["orchestra.v1"]
        ) as client:
            message = {
                "type": "message",
                "id": "a-page-of-staff-1",
                "data": {"text": "hi"},
            }
            await read(client, "hello")
            await client.send(json.dumps(message))
            await read(client, "ack")
        for address in ("203.0.113.9", "203.0.113.98"):
            await self.manage("ban", "--address", address)
        await self.manage("shell", "-c", _INVITE)

    @property
    def origin(self) -> str:
        """The origin of the project's own pages."""
        return self.project.variation.origin or self.server.url

    def path(self, path: str) -> str:
        """Return a path of the project as clients see it."""
        return self.project.variation.prefix + path

    def admin(self, path: str = "") -> str:
        """Return a path of the admin as clients see it."""
        return self.path(self.project.variation.admin + path)

    def browser(self) -> "Browser":
        """Return somebody with cookies of their own."""
        return Browser(self)

    def connect(self, path: str, token: str | None = None, **options: Any) -> Any:
        """Return connect() to a path of the project."""
        return self.connect_to(self.path(path), token, **options)

    def connect_to(
        self,
        path: str,
        token: str | None = None,
        *,
        cookies: str = "",
        origin: str | None = None,
        **options: Any,
    ) -> Any:
        """Return connect() to a path that clients see."""
        headers = dict(self.project.variation.headers)
        headers |= {"Cookie": cookies} if cookies else {}
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        open_socket: Callable[..., Any] = websockets.connect
        if self.project.variation.is_unix:
            path_of_socket = str(self.project.socket)
            open_socket = partial(websockets.unix_connect, path_of_socket)
        return open_socket(
            uri=self.server.ws_url + self.pass_on(path),
            additional_headers=headers,
            origin=origin,
            open_timeout=scale(20),
            **options,
        )

    def pass_on(self, path: str) -> str:
        """Return a path that clients see as the proxy passes it on."""
        if self.project.variation.is_stripped:
            return path.removeprefix(self.project.variation.prefix)
        return path

    async def token(self, name: str, *options: str) -> str:
        """Return a token for a client of this name."""
        if self.project.variation.has_own_tokens:
            user = dict(zip(options[::2], options[1::2], strict=True)).get("--user", "")
            login = {"client": name, "user": user}
            return await self.shell(
                "from django.core.signing import Signer\n"
                f"print(Signer().sign_object({login!r}))"
            )
        return await self.manage("create_access_token", "--client", name, *options)

    async def assert_closed(
        self,
        connection: ClientConnection,
        code: int,
        reason: str | None = None,
        *,
        seconds: float = 30,
    ) -> None:
        """Wait until a connection is closed; stock daphne sends the code alone."""
        has_reasons = self.project.variation.has_close_reasons
        expected = reason if has_reasons else None
        await assert_closed(connection, code, expected, seconds=seconds)

    async def shell(self, source: str) -> str:
        return await asyncio.to_thread(self.project.shell, source)

    async def manage(self, *arguments: str) -> str:
        return await asyncio.to_thread(self.project.manage, *arguments)


class Browser:
    """A person with a browser, behind the proxy of the project."""

    def __init__(self, case: Case) -> None:
        self._case = case
        variation = case.project.variation
        transport = None
        if variation.is_unix:
            transport = httpx.AsyncHTTPTransport(uds=str(case.project.socket))
        self._client = httpx.AsyncClient(
            timeout=scale(30), transport=transport, headers=dict(variation.headers)
        )

    async def __aenter__(self) -> "Browser":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    @property
    def cookies(self) -> str:
        """The cookies as a header of a handshake."""
        jar = self._client.cookies.jar
        return "; ".join(f"{one.name}={one.value}" for one in jar)

    async def get(self, path: str, **options: Any) -> httpx.Response:
        """Get a path that clients see."""
        return await self._client.get(self._address(path), **options)

    async def post(
        self, path: str, page: str = "", *, headers: Any = None, **fields: Any
    ) -> httpx.Response:
        """Post fields to a path that clients see, from a page with a CSRF token."""
        sent = {"Origin": self._case.origin, "Referer": self._case.origin + path}
        if page:
            sent["X-CSRFToken"] = find_csrf(page)
        return await self._client.post(
            self._address(path), data=fields, headers=sent | dict(headers or {})
        )

    async def send(self, path: str, **headers: str) -> httpx.Response:
        """Post nothing to a path, as a program does."""
        return await self._client.post(self._address(path), headers=headers)

    async def sign_in(self, name: str = "root") -> None:
        """Sign in on a page, as a person does."""
        variation = self._case.project.variation
        path = self._case.path(variation.login or f"{variation.admin}login/")
        page = await self.get(path)
        assert page.status_code == 200, page.status_code
        answer = await self.post(
            path,
            page.text,
            username=name,
            password=PASSWORD,
            csrfmiddlewaretoken=find_csrf(page.text),
        )
        # Somebody who is not staff signs in too, and is told that this is not enough.
        assert answer.status_code in (200, 302), answer.status_code

    def _address(self, path: str) -> str:
        return self._case.server.url + self._case.pass_on(path)


def find_csrf(page: str) -> str:
    found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    assert found, "no CSRF token in the page"
    return found[1]


async def chat(connection: ClientConnection, text: str = "hello") -> None:
    """Say something in the chat and read it back."""
    await connection.send(json.dumps({"type": "say", "text": text}))
    await read(connection, "said")


async def read(connection: ClientConnection, kind: str) -> dict[str, Any]:
    """Return the next message of a type, others passed over."""
    async with asyncio.timeout(scale(20)):
        while True:
            message: dict[str, Any] = json.loads(await connection.recv())
            if message["type"] == kind:
                return message
