"""A project tests its whole application with the test cases of Django and Channels."""

from pathlib import Path

import pytest

from tests.adoption.projects import Project, Variation
from tests.integration.services import PostgresProcess

TESTS = """
import asyncio
import json

from asgiref.sync import async_to_sync, sync_to_async
from channels.testing import ChannelsLiveServerTestCase, WebsocketCommunicator
from django.conf import settings
from django.contrib.auth.models import User
from django.test import TestCase, TransactionTestCase, tag

from connections.announcements import post_close_requests
from connections.client.connect import open_connection
from connections.credentials.tokens import create_access_token
from connections.models import CloseRequest
from connections.testing.waiting import scale
from mysite.asgi import application


class Promises:
    def make_communicator(self, **headers):
        headers = {"origin": "http://testserver", "host": "localhost"} | headers
        headers["origin"] = "http://localhost"
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        return WebsocketCommunicator(application, "/ws/chat/", pairs)

    def make_user(self, name="alice"):
        return User.objects.create_user(name)

    async def log_in(self, user):
        await self.async_client.aforce_login(user)
        key = self.async_client.cookies[settings.SESSION_COOKIE_NAME].value
        return {"cookie": f"{settings.SESSION_COOKIE_NAME}={key}"}

    async def test_a_session_is_admitted(self):
        user = await sync_to_async(self.make_user)()
        communicator = self.make_communicator(**await self.log_in(user))
        self.assertTrue((await communicator.connect(scale(5)))[0])
        await communicator.send_json_to({"type": "say", "text": "hello"})
        await communicator.receive_json_from(scale(5))
        await communicator.disconnect()

    async def test_a_token_is_admitted(self):
        user = await sync_to_async(self.make_user)()
        token, _ = await sync_to_async(create_access_token)("phone", user=user)
        communicator = self.make_communicator(authorization=f"Bearer {token}")
        self.assertTrue((await communicator.connect(scale(5)))[0])
        await communicator.disconnect()

    async def test_a_stranger_is_refused(self):
        communicator = self.make_communicator()
        self.assertTrue((await communicator.connect(scale(5)))[0])
        closed = await communicator.receive_output(scale(5))
        self.assertEqual(closed["code"], 4001)

    async def test_a_kick_ends_the_connection(self):
        user = await sync_to_async(self.make_user)()
        communicator = self.make_communicator(**await self.log_in(user))
        self.assertTrue((await communicator.connect(scale(5)))[0])
        request = CloseRequest(target="user", value=str(user.pk), reason="kicked")
        await sync_to_async(post_close_requests)(request)
        events = [await communicator.receive_output(scale(20))]
        while events[-1]["type"] != "websocket.close":
            events.append(await communicator.receive_output(scale(20)))
        self.assertEqual(events[-1]["code"], 4009)

    def test_from_synchronous_code(self):
        user = self.make_user()
        self.client.force_login(user)
        key = self.client.cookies[settings.SESSION_COOKIE_NAME].value
        cookie = f"{settings.SESSION_COOKIE_NAME}={key}"
        communicator = self.make_communicator(cookie=cookie)

        async def talk():
            connected, _ = await communicator.connect(scale(5))
            await communicator.disconnect()
            return connected

        self.assertTrue(async_to_sync(talk)())


class InTransaction(Promises, TestCase):
    pass


class Committed(Promises, TransactionTestCase):
    pass


@tag("live")
class Live(ChannelsLiveServerTestCase):
    def test_a_token_is_admitted(self):
        token, _ = create_access_token("phone")

        async def talk():
            url = self.live_server_ws_url + "/ws/chat/"
            async with open_connection(url, token=token) as socket:
                await socket.send(json.dumps({"type": "say", "text": "hello"}))
                return json.loads(await asyncio.wait_for(socket.recv(), scale(10)))

        self.assertNotEqual(async_to_sync(talk)()["type"], "error")
"""

SETTINGS = """
ALLOWED_HOSTS += ["testserver"]
if name := os.environ.get("PROJECT_TEST_FILE"):
    DATABASES["default"]["TEST"] = {"NAME": name}
"""


@pytest.mark.parametrize("database", ["memory", "file", "postgres"])
def test_the_tests_of_a_project_pass(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = None
    if database == "postgres":
        postgres: PostgresProcess = request.getfixturevalue("postgres_server")
        url = postgres.create_database("own_tests")
    variation = Variation(settings=SETTINGS, files={"chat/tests.py": TESTS})
    project = Project(tmp_path, variation, postgres_url=url)
    arguments = ["test", "--exclude-tag", "live"]
    if database == "file":
        # The live server is a process of its own: it cannot see a database in memory,
        # and PostgreSQL notices its end after the test database should be dropped.
        project.environment["PROJECT_TEST_FILE"] = "test_own_tests"
        arguments = ["test"]
    project.run(*arguments)
