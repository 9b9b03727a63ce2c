"""A private PostgreSQL that tests can pause, kill and restart."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import psycopg
import pytest

from connections.testing import StartFailed
from connections.testing.waiting import scale
from tests.integration.ports import hold_port

_START_SECONDS = 60
_USER = "orchestra"


class PostgresProcess:
    """
    One PostgreSQL on its own port, with its files in a temporary folder.

    It refuses to run as root, so there it runs as `nobody`. Nothing is synced,
    unless that is measured: what is tested is our side of an outage, not the disk's.
    """

    def __init__(self, *, is_synced: bool = False, most_connections: int = 40) -> None:
        self.port = hold_port(self)
        self._most = most_connections
        self._fsync = "on" if is_synced else "off"
        self._initdb = find_program("initdb", "/usr/lib/postgresql/*/bin")
        self._postgres = self._initdb.with_name("postgres")
        # pytest's tmp_path will not do: only its owner may enter its parents.
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._log = self._folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._user: int | None = None
        self._group: int | None = None
        if os.geteuid() == 0:
            account = pwd.getpwnam("nobody")
            self._user, self._group = account.pw_uid, account.pw_gid
            os.chown(self._folder, self._user, self._group)

    def create(self) -> "PostgresProcess":
        """Create the cluster and start the server."""
        done = subprocess.run(
            [
                *(self._initdb, "--pgdata", self._folder / "cluster", "--no-sync"),
                *("--username", _USER, "--auth", "trust"),
                *("--encoding", "UTF8", "--locale", "C"),
            ],
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=scale(_START_SECONDS),
            user=self._user,
            group=self._group,
            extra_groups=None if self._user is None else [],
        )
        if done.returncode:
            raise StartFailed(done.stdout + done.stderr)
        return self.start()

    def start(self) -> "PostgresProcess":
        """Start the server and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(self._postgres, "-D", self._folder / "cluster"),
                    *("-p", str(self.port), "-c", "listen_addresses=127.0.0.1"),
                    *("-k", self._folder, "-c", f"fsync={self._fsync}"),
                    *(
                        "-c",
                        f"max_connections={self._most}",
                        "-c",
                        "shared_buffers=16MB",
                    ),
                ],
                cwd=self._folder,
                stdout=log,
                stderr=log,
                user=self._user,
                group=self._group,
                extra_groups=None if self._user is None else [],
            )
        deadline = time.monotonic() + scale(_START_SECONDS)
        while True:
            try:
                self.connect("postgres").close()
                return self
            except psycopg.OperationalError as exc:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise StartFailed(self._log.read_text(errors="replace")) from exc
                time.sleep(0.05)

    def url(self, database: str) -> str:
        """Return a database's URL, as DATABASE_URL takes it."""
        return f"postgres://{_USER}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str) -> psycopg.Connection:
        """Return a connection for inspection."""
        return psycopg.connect(
            self.url(database), connect_timeout=round(scale(5)), autocommit=True
        )

    def create_database(self, name: str, template: str = "template1") -> str:
        """Create a database, empty or from a template; return its URL."""
        with self.connect("postgres") as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    def pause(self) -> None:
        """Freeze it; its connections stay open."""
        self._signal(self.pids(), signal.SIGSTOP)

    def resume(self) -> None:
        """Continue it after pause()."""
        self._signal(reversed(self.pids()), signal.SIGCONT)

    def kill(self) -> None:
        """Stop it at once, as in a crash; its files stay."""
        self._end(signal.SIGQUIT)

    def remove(self) -> None:
        """Stop it and remove its files."""
        if self._process is not None and self._process.poll() is None:
            self.resume()
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _signal(self, pids: Iterable[int], number: int) -> None:
        for pid in pids:
            # A backend whose client has left may have ended since the listing.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(scale(10))
            self._process = None

    def pids(self) -> list[int]:
        """Return the pids of the postmaster and then of its backends."""
        if self._process is None:
            return []
        own = self._process.pid
        return [own, *(pid for pid, parent in _list_processes() if parent == own)]


def _list_processes() -> list[tuple[int, int]]:
    """Return every process and its parent (proc(5), stat)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = stat.read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue  # It has ended since.
        found.append((int(stat.parent.name), int(parent)))
    return found


def find_program(name: str, *folders: str) -> Path:
    """
    Return the path of a program, from PATH or from folder patterns.

    Without it the test is skipped at home and fails in CI.
    """
    found = shutil.which(name)
    if found is not None:
        return Path(found).resolve()
    for folder in folders:
        for path in sorted(Path("/").glob(f"{folder.lstrip('/')}/{name}")):
            return path
    if os.environ.get("CI"):
        pytest.fail(f"{name} is not installed")
    pytest.skip(f"{name} is not installed")
