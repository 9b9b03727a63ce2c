"""Start real server processes on free ports, and end them by their id."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import weakref
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from django.conf import settings
from django.core.management import call_command
from websockets.asyncio.client import connect

from connections.capacity.load.procfs import free_port
from connections.testing.databases import Databases, run_on
from connections.testing.waiting import scale

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_START_SECONDS = 60
_STOP_SECONDS = 5
_OPEN_SECONDS = 10
_LOG_LINES = 40
_OPTIONS = {
    "daphne": ("-p", "{port}"),
    "uvicorn": ("--port", "{port}"),
    "hypercorn": ("--bind", "127.0.0.1:{port}"),
    "granian": ("--interface", "asgi", "--port", "{port}"),
    "gunicorn": ("-k", "uvicorn_worker.UvicornWorker", "--bind", "127.0.0.1:{port}"),
}
"""The options with which another server listens on a port of this machine."""


# A proxy of the environment does not reach this machine's own ports.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class StartFailed(Exception):
    """A process did not start; the message holds the end of its log."""


class LiveServer:
    """
    A server of your project in its own process.

    DJANGO_SETTINGS_MODULE names its settings. `command` is serve, daphne, uvicorn,
    hypercorn, granian or gunicorn, or sweep_idle_connections, which does not
    listen. `application` is the ASGI application for another server than serve,
    by default ASGI_APPLICATION.
    `config` overrides keys, as in {"idle_timeout_seconds": 1,
    "node__beat_seconds": 0.2}. `folder` takes its log; `databases` holds the
    differences from DATABASES, for run() and create_token().
    """

    def __init__(
        self,
        *,
        folder: Path,
        command: str = "serve",
        config: dict[str, object] | None = None,
        arguments: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
        application: str | None = None,
        port: int | None = None,
        databases: Databases | None = None,
    ) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.command = command
        self.application = application
        self.arguments = arguments
        self.databases = databases or {}
        self.environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            # The server may import the same modules as the test.
            "PYTHONPATH": os.pathsep.join(sys.path),
            **(environment or {}),
        }
        for key, value in (config or {}).items():
            self.environment[f"WEBSOCKET__{key.upper()}"] = str(value)
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / f"server-{self.port}.log"
        _servers[self.port] = self

    def __str__(self) -> str:
        return f"{self.command} on port {self.port}"

    @property
    def url(self) -> str:
        """The URL for HTTP."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        """The URL for WebSockets."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id."""
        if self._process is None:
            raise StartFailed("not started")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Return True while the process runs."""
        return self._process is not None and self._process.poll() is None

    def connect(
        self,
        path: str,
        token: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> connect:
        """
        Return connect() of the `websockets` library for a path, with a token.

        Await it for a connection, or use it with `async with`; other options go to
        connect(), which uses no proxy of the environment. A page of this server sends
        `origin=server.url`.
        """
        bearer = {"Authorization": f"Bearer {token}"} if token else {}
        return connect(
            self.ws_url + path,
            additional_headers=bearer | dict(headers or {}),
            **({"open_timeout": scale(_OPEN_SECONDS), "proxy": None} | options),
        )

    def start(self, *, is_ready: bool = True) -> "LiveServer":
        """Start the process, and wait until /readyz answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv(),
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if is_ready:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """
        Wait until /readyz answers with any status.

        Raises:
            StartFailed: the process has ended, or does not answer in a minute.
        """
        deadline = time.monotonic() + scale(_START_SECONDS)
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                raise StartFailed(self._explain("ended at its start"))
            try:
                with _opener.open(f"{self.url}/readyz", timeout=scale(1)):
                    return
            except urllib.error.HTTPError as exc:
                exc.close()
                return
            except OSError:
                time.sleep(0.05)
        self.stop()
        raise StartFailed(self._explain(f"gave no answer in {_START_SECONDS} s"))

    def kill(self) -> None:
        """End the process with SIGKILL, like a crash."""
        self._end(signal.SIGKILL)

    def terminate(self, seconds: float = 40) -> int:
        """Ask the process to end with SIGTERM; return its exit code."""
        return self._end(signal.SIGTERM, seconds)

    def signal(self, number: int) -> None:
        """Send a signal and do not wait."""
        os.kill(self.pid, number)

    def wait(self, seconds: float = 40) -> int:
        """Wait for the end of the process; return its exit code."""
        if self._process is None:
            raise StartFailed("not started")
        return self._process.wait(scale(seconds))

    def stop(self) -> None:
        """
        End the process within seconds if it runs, cutting off its connections.

        What it started ends with it.
        """
        if not self.is_running:
            return
        # The second SIGTERM skips the grace period; SIGCONT wakes a frozen process.
        for number in (signal.SIGCONT, signal.SIGTERM, signal.SIGTERM):
            self.signal(number)
        try:
            self.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        # Two signals end the parent of some servers before its workers.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def log(self) -> str:
        """Return the whole log."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def log_tail(self, lines: int = _LOG_LINES) -> str:
        """Return the last lines of the log."""
        return "\n".join(self.log().splitlines()[-lines:]) or "(nothing)"

    def rss_kib(self) -> int:
        """Return the resident memory in KiB (proc(5), VmRSS)."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise StartFailed("no VmRSS")

    def manage(self, *arguments: str, is_checked: bool = True) -> str:
        """Run a management command as an operator does; return its output."""
        done = subprocess.run(
            [sys.executable, "-m", "django", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=scale(60),
        )
        if is_checked and done.returncode:
            raise StartFailed(f"{arguments}: {done.stdout}{done.stderr}")
        return done.stdout.strip() if is_checked else done.stdout + done.stderr

    def run(
        self,
        work: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """
        Run ORM work on the server's databases, in this process.

        Example: `server.run(Connection.objects.filter(closed_at=None).count)`. A
        coroutine may call it, and waits for it.
        """
        return run_on(self.databases, work, *args, **kwargs)

    def call(self, command: str, *arguments: str) -> str:
        """
        Run a management command on its databases, in this process; return its output.

        It takes milliseconds instead of seconds, but the command sees the test's
        settings: use it for commands that concern only the database.
        """
        output = StringIO()
        self.run(call_command, command, *arguments, stdout=output)
        return output.getvalue().strip()

    def create_token(self, client: str = "alice", *arguments: str) -> str:
        """Make an access token for a client; options of create_access_token."""
        return self.call("create_access_token", "--client", client, *arguments)

    def _argv(self) -> list[str]:
        port = str(self.port)
        if self.command == "serve":
            argv = ["django", "serve", "--port", port]
        elif self.command == "sweep_idle_connections":
            argv = ["django", self.command]
        else:
            options = (one.format(port=port) for one in _OPTIONS[self.command])
            argv = [self.command, *options, self._find_application()]
        return [sys.executable, "-m", *argv, *self.arguments]

    def _find_application(self) -> str:
        return self.application or ":".join(settings.ASGI_APPLICATION.rsplit(".", 1))

    def _explain(self, what: str) -> str:
        return f"{self} {what}; its log ends with:\n{self.log_tail()}"

    def _end(self, number: int, seconds: float = 10) -> int:
        if self._process is None:
            raise StartFailed("not started")
        self._process.send_signal(number)
        return self._process.wait(scale(seconds))


_servers: weakref.WeakValueDictionary[int, LiveServer] = weakref.WeakValueDictionary()


def find_server(port: int) -> LiveServer | None:
    """Return the latest server made for a port."""
    return _servers.get(port)
