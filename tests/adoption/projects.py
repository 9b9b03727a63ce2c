"""Make Django projects from the quickstart's blocks, each with settings of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from connections.testing import LiveServer
from connections.testing.waiting import scale
from tests.pages import QUICKSTART, read_files
from tests.project import ROOT

USERS = ("root", "alice", "bob", "carol", "dave")
PASSWORD = "not-a-common-one"


@dataclass(frozen=True, kw_only=True)
class Variation:
    """How one project differs from the quickstart's."""

    settings: str = ""
    """Appended to the settings."""

    files: Mapping[str, str] = field(default_factory=dict)
    """Files beside those of the quickstart, or in their place, by path."""

    make_migrations: tuple[str, ...] = ()
    """Apps of the project whose migrations are made first."""


ASGI = """
import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
django_application = get_asgi_application()

from chat.consumers import ChatConsumer, QuietConsumer, StaffConsumer
from connections.routing import protect
from django.urls import path
from sessions_history.consumers import SessionConsumer

application = protect(
    http=django_application,
    websocket=[
        path("ws/chat/", ChatConsumer.as_asgi()),
        path("ws/quiet/", QuietConsumer.as_asgi()),
        path("ws/staff/", StaffConsumer.as_asgi()),
        path("ws/sessions/<str:session_id>/", SessionConsumer.as_asgi()),
    ],
)
"""

MORE_CONSUMERS = """

class QuietConsumer(LimitedJsonConsumer):
    async def handle_nothing(self, content):
        pass


class StaffConsumer(LimitedJsonConsumer):
    permission_required = "auth.view_user"

    async def handle_fail(self, content):
        raise RuntimeError("a fault of the project")
"""

TALKATIVE = """

def make_echo():
    return Echo()


class Echo:
    async def respond(self, message, history):
        yield "you said "
        yield str(message.get("text"))
"""

MORE_SETTINGS = """
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
WEBSOCKET["max_connections_per_client"] = 5
WEBSOCKET["allowed_origins"] = []
SESSIONS_RESPONDER = "chat.responders.make_echo"
if url := os.environ.get("PROJECT_POSTGRES"):
    from urllib.parse import urlsplit
    parts = urlsplit(url)
    DATABASES["default"] = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path[1:], "USER": parts.username,
        "HOST": parts.hostname, "PORT": parts.port,
    }
"""


class Project:
    """A project in a folder, migrated, with its users, and how it is run."""

    def __init__(
        self, folder: Path, variation: Variation, *, postgres_url: str | None
    ) -> None:
        self.folder = folder / "mysite"
        self.variation = variation
        self.environment = {
            "DJANGO_SETTINGS_MODULE": "mysite.settings",
            "PYTHONPATH": f"{self.folder}:{ROOT}",
            "PYTHONWARNINGS": "default",
        }
        if postgres_url:
            self.environment["PROJECT_POSTGRES"] = postgres_url
        self._write(folder)

    def _write(self, folder: Path) -> None:
        for command in ("startproject mysite", "startapp chat"):
            done = subprocess.run(
                [sys.executable, "-m", "django", *command.split()],
                cwd=folder if "project" in command else self.folder,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
        blocks = {name: text for name, text, _ in read_files(QUICKSTART.read_text())}
        self._add("mysite/settings.py", blocks["mysite/settings.py"] + MORE_SETTINGS)
        self._add("mysite/settings.py", self.variation.settings)
        files = {
            "mysite/urls.py": blocks["mysite/urls.py"],
            "mysite/asgi.py": ASGI,
            "chat/consumers.py": blocks["chat/consumers.py"] + MORE_CONSUMERS,
            "chat/responders.py": TALKATIVE,
            **self.variation.files,
        }
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def _add(self, name: str, text: str) -> None:
        with (self.folder / name).open("a") as file:
            file.write(text)

    def prepare(self) -> None:
        """Migrate, and make a superuser and some users with one password."""
        for app in self.variation.make_migrations:
            self.manage("makemigrations", app)
        self.manage("migrate", "--verbosity", "0")
        self.shell(
            f"""
from django.contrib.auth import get_user_model
users = get_user_model()
for name in {USERS!r}:
    user = users(**{{users.USERNAME_FIELD: name}})
    user.set_password({PASSWORD!r})
    user.is_staff = user.is_superuser = name == "root"
    user.save()
"""
        )

    def manage(self, *arguments: str, is_checked: bool = True) -> str:
        """Run a management command as an operator does; return what it printed."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=self.folder,
            env=self._environ(),
            capture_output=True,
            text=True,
            timeout=scale(90),
        )
        if is_checked:
            assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout if is_checked else done.stdout + done.stderr

    def shell(self, source: str) -> str:
        """Run Python in the project; return what it printed."""
        return self.manage("shell", "--verbosity", "0", "-c", source).strip()

    def run_commands(self, *commands: tuple[str, ...]) -> dict[str, tuple[int, str]]:
        """Run commands one after another in one process; return code and output."""
        source = """
import contextlib, io, json, sys
from django.core.management import execute_from_command_line
found = {}
for argv in json.loads(sys.argv[1]):
    written = io.StringIO()
    code = 0
    with contextlib.redirect_stdout(written), contextlib.redirect_stderr(written):
        try:
            execute_from_command_line(["manage.py", *argv])
        except SystemExit as exc:
            code = exc.code if isinstance(exc.code, int) else int(bool(exc.code))
    found[" ".join(argv)] = (code, written.getvalue())
print(json.dumps(found))
"""
        done = subprocess.run(
            [sys.executable, "-c", source, json.dumps(commands)],
            cwd=self.folder,
            env=self._environ(),
            capture_output=True,
            text=True,
            timeout=scale(180),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        read: dict[str, list[Any]] = json.loads(done.stdout.splitlines()[-1])
        return {name: (code, text) for name, (code, text) in read.items()}

    def make_server(self, *arguments: str, **config: object) -> LiveServer:
        """Return a server of the project, not yet started."""
        return LiveServer(
            folder=self.folder,
            environment=self.environment,
            arguments=arguments,
            config=config,
        )

    def _environ(self) -> dict[str, str]:
        return {**os.environ, **self.environment}
