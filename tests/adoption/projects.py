"""Make Django projects from the quickstart's blocks, each with settings of its own."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from connections.testing import LiveServer
from connections.testing.waiting import scale
from tests.pages import QUICKSTART, read_files
from tests.project import ROOT

USERS = ("root", "alice", "bob", "carol", "dave", "erin")
PASSWORD = "not-a-common-one"
_WORKER = Path(__file__).with_name("worker.py")


@dataclass(frozen=True, kw_only=True)
class Variation:
    """The differences of one project from the quickstart's."""

    settings: str = ""
    """Appended to the settings."""

    files: Mapping[str, str] = field(default_factory=dict)
    """Files beside those of the quickstart, or in their place, by path."""

    make_migrations: tuple[str, ...] = ()
    """Apps of the project whose migrations are made first."""

    databases: tuple[str, ...] = ("default",)
    """Aliases of the databases that are migrated."""

    commands: tuple[tuple[str, ...], ...] = ()
    """Management commands that run before the server."""

    command: str = "serve"
    """The server: serve, daphne or uvicorn."""

    arguments: tuple[str, ...] = ()
    config: Mapping[str, object] = field(default_factory=dict)

    prefix: str = ""
    """The URL prefix that clients see."""

    is_stripped: bool = False
    """Whether the proxy removes the prefix."""

    is_unix: bool = False
    """Whether clients come over a Unix socket."""

    admin: str = "/admin/"
    login: str = ""
    """The page that signs staff in, where it is not the admin's."""

    origin: str = ""
    """The origin of pages, where it is not the server's own address."""

    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers that the proxy adds to each request."""

    session_cookie: str = "sessionid"

    observed: frozenset[str] = frozenset()
    """Limits that are observed and not enforced."""

    has_own_tokens: bool = False
    """Whether the project signs the tokens of its clients, for its own middleware."""

    has_close_reasons: bool = True
    """Whether the server sends the reason of a close beside its code."""

    left_out: Mapping[str, str] = field(default_factory=dict)
    """Checks that do not apply, and the reason of each."""


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

ECHO = """

def make_echo():
    return Echo()


class Echo:
    async def respond(self, message, history):
        yield "you said "
        yield str(message.get("text"))
"""

MORE_URLS = """
from django.urls import include, path

urlpatterns += [path("", include("connections.api_urls"))]
"""

MORE_SETTINGS = """
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
WEBSOCKET["max_connections_per_client"] = 5
WEBSOCKET["allowed_origins"] = ["capacitor://localhost", "moz-extension://*"]
SESSIONS_RESPONDER = "chat.responders.make_echo"
# The strength of passwords is not what is tested here.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
if url := os.environ.get("PROJECT_POSTGRES"):
    from urllib.parse import urlsplit
    parts = urlsplit(url)
    DATABASES["default"] = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path[1:], "USER": parts.username,
        "HOST": parts.hostname, "PORT": parts.port,
    }
"""


class CommandFailed(Exception):
    """A command or a source of the project failed; the message is its output."""


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
        self._worker: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._write(folder)

    @property
    def socket(self) -> Path:
        """The Unix socket of a server that listens on one."""
        return self.folder / "socket"

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
            "chat/responders.py": ECHO,
            **self.variation.files,
        }
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self._add("mysite/urls.py", MORE_URLS)

    def _add(self, name: str, text: str) -> None:
        with (self.folder / name).open("a") as file:
            file.write(text)

    def prepare(self) -> None:
        """Migrate, and make a superuser and some users with one password."""
        for app in self.variation.make_migrations:
            self.run("makemigrations", app)
        for alias in self.variation.databases:
            self.run("migrate", "--verbosity", "0", "--database", alias)
        for command in self.variation.commands:
            self.run(*command)
        self._worker = subprocess.Popen(
            [sys.executable, str(_WORKER)],
            cwd=self.folder,
            env=self._environ(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
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

    def close(self) -> None:
        """End the process that runs commands."""
        if self._worker is not None:
            self._worker.communicate(timeout=scale(20))

    def manage(self, *arguments: str) -> str:
        """
        Run a management command; return what it wrote.

        Raises:
            CommandFailed: its exit code is not 0.
        """
        return self._ask({"argv": arguments})

    def shell(self, source: str) -> str:
        """
        Run Python in the project; return what it wrote.

        Raises:
            CommandFailed: it raised an exception.
        """
        return self._ask({"source": source})

    def _ask(self, request: Mapping[str, object]) -> str:
        worker = self._worker
        assert worker is not None and worker.stdin and worker.stdout
        with self._lock:
            worker.stdin.write(json.dumps(request) + "\n")
            worker.stdin.flush()
            answer = json.loads(worker.stdout.readline())
        output: str = answer["output"].strip()
        errors: str = answer["errors"]
        if answer["code"] or "Traceback" in output + errors:
            raise CommandFailed(f"{request}: {output[-1000:]}{errors[-1000:]}")
        return output

    def run(self, *arguments: str) -> None:
        """Run a management command in a process of its own."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=self.folder,
            env=self._environ(),
            capture_output=True,
            text=True,
            timeout=scale(90),
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"

    def make_server(self, **config: object) -> LiveServer:
        """Return a server of the project, not yet started."""
        arguments = self.variation.arguments
        if self.variation.is_unix:
            option = "--uds" if self.variation.command == "uvicorn" else "-u"
            arguments += (option, str(self.socket))
        return LiveServer(
            folder=self.folder,
            environment=self.environment,
            command=self.variation.command,
            application="mysite.asgi:application",
            arguments=arguments,
            config=config | dict(self.variation.config),
        )

    def _environ(self) -> dict[str, str]:
        return {**os.environ, **self.environment}
