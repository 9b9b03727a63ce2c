"""The test kit from outside: a project of somebody's, whose own tests use it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import ROOT

_FILES = {
    "pytest.ini": """
[pytest]
DJANGO_SETTINGS_MODULE = shop.settings
pythonpath = .
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
addopts = --strict-markers
""",
    "conftest.py": 'pytest_plugins = ["connections.testing.plugin"]\n',
    "shop/__init__.py": "",
    "shop/settings.py": """
SECRET_KEY = "for tests"
INSTALLED_APPS = [
    "daphne",
    "connections",
    "sessions_history",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
]
MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware"]
ROOT_URLCONF = "shop.urls"
ASGI_APPLICATION = "shop.asgi.application"
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "the_shops_own.sqlite3"}
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
WEBSOCKET = {"max_connections_per_client": 2, "node": {"beat_seconds": 0.1}}
""",
    "shop/urls.py": """
from django.http import HttpResponse
from django.urls import path

urlpatterns = [path("", lambda request: HttpResponse("shop"))]
""",
    "shop/asgi.py": """
from django.core.asgi import get_asgi_application

django_application = get_asgi_application()
from connections.routing import protect
from django.urls import path
from shop.consumers import ChatConsumer

application = protect(
    http=django_application, websocket=[path("ws/chat/", ChatConsumer.as_asgi())]
)
""",
    "shop/consumers.py": """
import logging

from connections.consumers import LimitedJsonConsumer


class ChatConsumer(LimitedJsonConsumer):
    async def handle_say(self, content):
        if len(content["text"]) > 500:
            logging.warning("%s characters are too many", len(content["text"]))
            self.end(1008, "policy")
            return
        user = self.scope["user"].get_username()
        await self.send_json({"type": "said", "text": content["text"], "by": user})
""",
    "test_good.py": """
import json

import pytest
from connections.models import Connection
from connections.testing import assert_closed, assert_evicted, assert_open, wait_until
from connections.testing.communicators import connect_to, make_node
from shop.consumers import ChatConsumer

CHAT = "/ws/chat/"


@pytest.mark.parametrize("command", ["serve", "uvicorn"])
async def test_a_third_tab_evicts_the_first(servers, command):
    server = servers.start(command=command)
    token = server.create_token("alice")
    first, second, third = [await server.connect(CHAT, token) for _ in range(3)]
    await assert_evicted(first)
    await assert_open(second)
    await assert_open(third)
    evicted = Connection.objects.filter(reason="evicted", client_id="alice")
    await wait_until(lambda: server.run(evicted.count) == 1)


def test_the_test_database_is_that_of_the_server(live_server):
    assert not Connection.objects.exists()
    assert live_server.run(Connection.objects.count) == 0


@pytest.fixture
def cookie(client, django_user_model, transactional_db):
    client.force_login(django_user_model.objects.create_user("bob"))
    return "sessionid=" + client.cookies["sessionid"].value


async def test_who_is_logged_in_on_the_page_may_talk(cookie, live_server):
    connection = await live_server.connect(
        CHAT, origin=live_server.url, headers={"Cookie": cookie}
    )
    await connection.send(json.dumps({"type": "say", "text": "hello"}))
    assert json.loads(await connection.recv())["by"] == "bob"


async def test_idle_takes_no_time_here():
    node = make_node(idle_timeout_seconds=3600)
    communicator = connect_to(ChatConsumer, node)
    assert (await communicator.connect())[0]
    await node.advance(3599)
    assert await communicator.receive_nothing()
    await node.advance(1)
    await assert_closed(communicator, 4300, "idle")
""",
    "test_bad.py": """
import json

import pytest
from connections.testing import assert_closed, wait_until


async def test_wrong_code(live_server):
    connection = await live_server.connect("/ws/chat/", live_server.create_token())
    await connection.send(json.dumps({"type": "say", "text": "x" * 501}))
    await assert_closed(connection, 4300, "idle")


async def test_still_open(live_server):
    connection = await live_server.connect("/ws/chat/", live_server.create_token())
    await connection.send(json.dumps({"type": "what"}))
    await assert_closed(connection, 4300, seconds=1)


@pytest.mark.live_server(config={"idle_timeout_seconds": -1})
def test_no_start(live_server):
    raise AssertionError("never comes so far")


async def test_waits_in_vain():
    orders = []
    await wait_until(lambda: len(orders) == 3, seconds=0.1)
""",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Django project of somebody's, with tests."""
    folder = tmp_path_factory.mktemp("project")
    for name, source in _FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(source)
    return folder


def run_tests(project: Path, name: str) -> str:
    """Run a test file of the project, as its owner would."""
    own = ("PATH", "HOME", "LANG", "TMPDIR")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", name],
        cwd=project,
        # The path stands for pip install.
        env={key: os.environ[key] for key in own if key in os.environ}
        | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=170,
    )
    return done.stdout + done.stderr


def test_a_projects_tests_use_the_kit(project: Path) -> None:
    said = run_tests(project, "test_good.py")
    assert " 5 passed" in said.splitlines()[-1], said
    assert not (project / "the_shops_own.sqlite3").exists()


def test_what_fails_says_why(project: Path) -> None:
    """What was expected, what came instead, and what the server says of it."""
    said = run_tests(project, "test_bad.py")
    assert "3 failed, 1 error" in said.splitlines()[-1], said
    assert "not closed with 4300 idle, but with 1008 policy" in said
    assert "501 characters are too many" in said
    assert "not closed with 4300, but open after 1 s; the last that it got:" in said
    assert '"type":"error"' in said.replace(": ", ":")
    assert "ended at its start; its log ends with:" in said
    assert "idle_timeout_seconds: -1 is not allowed" in said
    assert "not within 0.1 s: " in said
    assert "lambda: len(orders) == 3" in said
