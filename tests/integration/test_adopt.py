"""Take three projects of the page over, one consumer at a time."""

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from connections.testing import assert_closed, assert_open, wait_until
from connections.testing.waiting import scale
from tests.integration.newcomer import Newcomer
from tests.pages import ADOPT, read_blocks, read_changes, read_section

PASSWORD = "not-a-common-one"

LIBRARIES = """
INSTALLED_APPS += ["knox"]
REST_FRAMEWORK["DEFAULT_AUTHENTICATION_CLASSES"] += [
    "rest_framework_simplejwt.authentication.JWTAuthentication",
    "knox.auth.TokenAuthentication",
]
REST_KNOX = {"AUTH_HEADER_PREFIX": "Knox"}
SECRET_KEY = "x" * 64
"""
"""What a project with other tokens of Django REST framework has in its settings."""

MAKE_TOKENS = """
from django.contrib.auth.models import User
from knox.models import AuthToken
from rest_framework_simplejwt.tokens import AccessToken
user = User.objects.get(username="ann")
print("Knox", AuthToken.objects.create(user)[1])
print("Bearer", AccessToken.for_user(user))
"""

DELETE_TOKENS = """
from rest_framework.authtoken.models import Token
Token.objects.all().delete()
"""


class Adopter(Newcomer):
    """A project of the page, at one of its steps."""

    def __init__(self, folder: Path, title: str) -> None:
        super().__init__(folder)
        self.environment["WEBSOCKET__REAUTHORISE_SECONDS"] = "1"
        section = read_section(ADOPT, title)
        self.steps = section.split("\n### ")
        self._server: subprocess.Popen[bytes] | None = None
        self.make_project(self.steps[0])

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def apply(self, step: int) -> None:
        """Write and change the files of a step, and run its commands."""
        text = self.steps[step]
        self.write_files(text)
        for name, old, new in read_changes(text):
            path = self.folder / name
            assert path.read_text().count(old) == 1, (name, old)
            path.write_text(path.read_text().replace(old, new))
        for block in read_blocks(text, "sh"):
            for line in block.splitlines():
                if not line.endswith(" serve"):
                    self.manage(line)

    def manage(self, line: str, **environment: str) -> str:
        done = self.run(line, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def shell(self, source: str) -> str:
        (self.folder / "source").write_text(source)
        return self.manage("python manage.py shell --no-imports < source")

    def add_user(self) -> None:
        self.manage(
            "python manage.py createsuperuser --noinput --username ann --email a@b.cd",
            DJANGO_SUPERUSER_PASSWORD=PASSWORD,
        )

    async def serve(self, line: str = "python manage.py serve") -> None:
        """Stop the server of the step before, and start one."""
        if self._server is not None:
            self._server.terminate()
            await asyncio.to_thread(self._server.wait, scale(30))
        self._server = self.start(line)
        await wait_until(self._answers, 60)

    async def serve_before(self) -> None:
        await self.serve(f"daphne -p {self.port} mysite.asgi:application")

    def connect(self, path: str, **headers: str) -> Any:
        return websockets.connect(
            f"ws://127.0.0.1:{self.port}{path}",
            additional_headers={"Origin": self.origin, **headers},
            open_timeout=scale(20),
        )

    def _answers(self) -> bool:
        try:
            return self.get("/") > 0
        except OSError:
            return False


async def ask(client: ClientConnection, message: Any) -> Any:
    """Send a message, and return the answer."""
    await client.send(json.dumps(message))
    return json.loads(await asyncio.wait_for(client.recv(), scale(20)))


async def read_time(client: ClientConnection) -> str:
    await client.send("what time is it?")
    return str(await asyncio.wait_for(client.recv(), scale(20)))


@pytest.fixture
async def adopters(tmp_path: Path) -> AsyncIterator[Any]:
    made: list[Adopter] = []

    def make(title: str) -> Adopter:
        made.append(Adopter(tmp_path, title))
        return made[-1]

    yield make
    for one in made:
        one.stop()
    for one in made:
        assert "Traceback" not in one.log(), one.log()[-3000:]


async def check_limit(
    adopter: Adopter, path: str, is_limited: bool, **headers: str
) -> None:
    """Check whether the fourth connection of a client closes the first."""
    clients = [await adopter.connect(path, **headers) for _ in range(4)]
    try:
        await assert_open(clients[-1])
        oldest = clients[0]
        if is_limited:
            await assert_closed(oldest, 4005, "evicted")
            return
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(oldest.wait_closed(), scale(0.5))
    finally:
        for client in clients:
            await client.close()


def count_recorded(adopter: Adopter) -> int:
    listed = adopter.manage("python manage.py connections list")
    return len(re.findall(r"(address|user):", listed))


async def test_the_chat_of_channels_is_taken_over(adopters: Any) -> None:
    adopter: Adopter = adopters("The chat of Channels' tutorial")
    adopter.apply(1)
    await adopter.serve_before()
    for step in (1, 2, 3, 4):
        if step > 1:
            adopter.apply(step)
            await adopter.serve()
        async with (
            adopter.connect("/ws/chat/hall/") as ann,
            adopter.connect("/ws/chat/hall/") as bob,
            adopter.connect("/ws/clock/") as clock,
        ):
            assert await ask(ann, {"message": "hello"}) == {"message": "hello"}
            heard = await asyncio.wait_for(bob.recv(), scale(20))
            assert json.loads(heard) == {"message": "hello"}
            assert (await read_time(clock)).startswith("20")
            if step > 1:
                recorded = (step > 2) * 2 + (step > 3)
                await wait_until(lambda n=recorded: count_recorded(adopter) == n, 20)
        for path, first_limited in (("/ws/chat/hall/", 3), ("/ws/clock/", 4)):
            await check_limit(adopter, path, step >= first_limited)


async def test_tokens_of_django_rest_framework_are_taken_over(adopters: Any) -> None:
    adopter: Adopter = adopters("Tokens of Django REST framework")
    adopter.apply(1)
    adopter.manage("python manage.py migrate")
    adopter.add_user()
    token = adopter.manage("python manage.py drf_create_token ann").split()[2]
    ann = {"Authorization": f"Token {token}"}
    await adopter.serve_before()
    for step in (1, 2, 3):
        if step > 1:
            adopter.apply(step)
            if step == 3:
                with (adopter.folder / "mysite/settings.py").open("a") as settings:
                    settings.write(LIBRARIES)
                adopter.manage("python manage.py migrate")
            await adopter.serve()
        async with (
            adopter.connect("/ws/status/", **ann) as status,
            adopter.connect("/ws/alarms/", **ann) as alarms,
        ):
            assert json.loads(await status.recv()) == {"user": "ann"}
            assert await ask(status, {"type": "x"}) == {"type": "x"}
            assert await ask(alarms, 7) == {"alarm": 7}
        await check_limit(adopter, "/ws/status/", step >= 2, **ann)
        await check_limit(adopter, "/ws/alarms/", step >= 3, **ann)
        if step == 1:
            with pytest.raises(InvalidStatus):
                await adopter.connect("/ws/status/")
            continue
        for wrong in ({}, {"Authorization": "Token wrong"}):
            async with adopter.connect("/ws/status/", **wrong) as nobody:
                await assert_closed(nobody, 4001, "unauthenticated")
    made = adopter.shell(MAKE_TOKENS).splitlines()
    assert [line.split()[0] for line in made] == ["Knox", "Bearer"]
    for line in made:
        async with adopter.connect("/ws/status/", Authorization=line) as client:
            assert json.loads(await client.recv()) == {"user": "ann"}, line
    offered = [Subprotocol("devices"), Subprotocol(f"bearer.{token}")]
    url = f"ws://127.0.0.1:{adopter.port}/ws/status/"
    async with websockets.connect(
        url, subprotocols=offered, open_timeout=scale(20)
    ) as browser:
        assert json.loads(await browser.recv()) == {"user": "ann"}
        adopter.shell(DELETE_TOKENS)
        await assert_closed(browser, 4009, "revoked")


async def test_auth_middleware_stack_is_taken_over(adopters: Any) -> None:
    adopter: Adopter = adopters("AuthMiddlewareStack with allauth")
    adopter.apply(1)
    adopter.manage("python manage.py migrate")
    adopter.add_user()
    await adopter.serve_before()
    async with httpx.AsyncClient(base_url=adopter.origin, timeout=scale(30)) as person:
        await post(person, "/accounts/login/", login="ann", password=PASSWORD)
        cookies = {"Cookie": f"sessionid={person.cookies['sessionid']}"}
        for step in (1, 2, 3):
            if step > 1:
                adopter.apply(step)
                await adopter.serve()
            async with (
                adopter.connect("/ws/news/", **cookies) as news,
                adopter.connect("/ws/drafts/", **cookies) as drafts,
            ):
                assert json.loads(await news.recv()) == {"user": "ann"}
                assert await ask(drafts, {"n": step}) == {"saved": {"n": step}}
            await check_limit(adopter, "/ws/news/", step >= 2, **cookies)
            await check_limit(adopter, "/ws/drafts/", step >= 3, **cookies)
            if step > 1:
                async with adopter.connect("/ws/news/") as nobody:
                    await assert_closed(nobody, 4001, "unauthenticated")
        async with adopter.connect("/ws/news/", **cookies) as news:
            await post(person, "/accounts/logout/")
            await assert_closed(news, 4009, "logged_out")


async def post(person: httpx.AsyncClient, path: str, **fields: str) -> None:
    """Fill in a form of a page, and send it."""
    page = await person.get(path)
    found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
    assert found, page.text[:500]
    sent = {**fields, "csrfmiddlewaretoken": found[1]}
    answer = await person.post(path, data=sent)
    assert answer.status_code == 302, answer.text[:2000]
