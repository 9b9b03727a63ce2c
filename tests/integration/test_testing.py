"""Run the tests of a separate project that uses connections.testing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from connections.testing.waiting import PATIENCE, scale
from tests.pages import QUICKSTART, TESTING, read_blocks, read_files
from tests.project import ROOT

_, _LIVE, _, _IDLE = read_blocks(TESTING.read_text(), "python")
_QUICKSTART = {name: text for name, text, _ in read_files(QUICKSTART.read_text())}

_FILES = {
    "pytest.ini": """
[pytest]
DJANGO_SETTINGS_MODULE = chat.settings
pythonpath = .
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
addopts = --strict-markers
""",
    "conftest.py": 'pytest_plugins = ["connections.testing.plugin"]\n',
    "chat/__init__.py": "",
    "chat/settings.py": """
SECRET_KEY = "for tests"
INSTALLED_APPS = [
    "connections",
    "daphne",
    "sessions_history",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
]
MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware"]
ROOT_URLCONF = "chat.urls"
ASGI_APPLICATION = "chat.asgi.application"
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "their_own.sqlite3"}
}
CHANNEL_LAYERS = {"default": {"BACKEND": "connections.layers.local.LocalLayer"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
WEBSOCKET = {"node": {"beat_seconds": 0.1}}
""",
    "chat/urls.py": """
from django.http import HttpResponse
from django.urls import path

urlpatterns = [path("", lambda request: HttpResponse("chat"))]
""",
    "chat/consumers.py": "import logging\n"
    + _QUICKSTART["chat/consumers.py"].replace(
        "self.end(", "logging.warning('too long')\n            self.end("
    ),
    "chat/asgi.py": _QUICKSTART["mysite/asgi.py"],
    "test_good.py": """
import json

import pytest
from connections.models import Connection
from connections.testing import assert_closed, assert_evicted, assert_open, wait_until
from chat.consumers import ChatConsumer


@pytest.fixture
def cookie(client, django_user_model, transactional_db):
    client.force_login(django_user_model.objects.create_user("bob"))
    return "sessionid=" + client.cookies["sessionid"].value


async def test_a_user_logged_in_on_the_page_may_send(cookie, live_server):
    connection = await live_server.connect(
        "/ws/chat/", origin=live_server.url, headers={"Cookie": cookie}
    )
    await connection.send(json.dumps({"type": "say", "text": "hello"}))
    assert json.loads(await connection.recv())["text"] == "hello"


async def test_servers_share_the_test_database(servers):
    assert not await Connection.objects.aexists()
    for command in ("uvicorn", "daphne"):
        server = servers.start(command=command)
        connection = await server.connect("/ws/chat/", server.create_token(command))
        await connection.close()
        assert server.terminate() in (0, -15)
    assert await Connection.objects.exclude(closed_at=None).acount() == 2


"""
    + _LIVE
    + _IDLE,
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
    """A separate Django project with tests."""
    folder = tmp_path_factory.mktemp("project")
    for name, source in _FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(source)
    return folder


def run_tests(project: Path, name: str) -> str:
    """Run a test file of the project."""
    own = ("PATH", "HOME", "LANG", "TMPDIR", PATIENCE)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", name],
        cwd=project,
        # PYTHONPATH replaces pip install.
        env={key: os.environ[key] for key in own if key in os.environ}
        | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=scale(85),
    )
    return done.stdout + done.stderr


def test_a_projects_tests_use_real_servers(project: Path) -> None:
    output = run_tests(project, "test_good.py")
    assert " 4 passed" in output.splitlines()[-1], output
    assert not (project / "their_own.sqlite3").exists()


def test_failures_are_explained(project: Path) -> None:
    """A failure shows the expected result, the actual one, and the server's log."""
    output = run_tests(project, "test_bad.py")
    assert "3 failed, 1 error" in output.splitlines()[-1], output
    for explanation in (
        "not closed with 4300 idle, but with 1008 policy",
        "WARNING:root:too long",
        "not closed with 4300, but open after 1 s; the last that it got:",
        "ended at its start; its log ends with:",
        "idle_timeout_seconds: -1 is not allowed",
        f"not within {scale(0.1)} s: ",
        "lambda: len(orders) == 3",
    ):
        assert explanation in output, output
    assert '"type":"error"' in output.replace(": ", ":"), output
