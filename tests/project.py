"""Start servers with this project's settings and a migrated database each."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import dj_database_url

from connections.testing import LiveServer, Servers
from tests.integration.ports import hold_port

ROOT = Path(__file__).resolve().parents[1]


class _HoldingServer(LiveServer):
    """A server whose port nobody takes before it listens, or while it restarts."""

    def __init__(self, *, port: int | None = None, **options: Any) -> None:
        super().__init__(port=port or hold_port(self), **options)


def make_server(
    folder: Path, *, environment: dict[str, str] | None = None, **options: Any
) -> LiveServer:
    """Return a server that keeps its files in a folder; options are LiveServer's."""
    own = {
        "DJANGO_SETTINGS_MODULE": "orchestra.settings",
        "DEBUG": "true",
        "ORCHESTRA_VAR": str(folder),
    }
    own |= environment or {}
    database: dict[str, Any] = {"NAME": str(folder / "db.sqlite3")}
    if url := own.get("DATABASE_URL"):
        database = {"OPTIONS": {}, **dj_database_url.parse(url)}
    return _HoldingServer(
        folder=folder, environment=own, databases={"default": database}, **options
    )


class ProjectServers(Servers):
    """Start servers, each with a copy of a migrated database, and stop them all."""

    def __init__(self, folder: Path, template: Path) -> None:
        super().__init__(folder)
        self._template = template
        self._shared: dict[str, LiveServer] = {}

    def share(self, **options: Any) -> LiveServer:
        """Return a server with these options, shared by tests with equal options."""
        key = json.dumps(options, sort_keys=True)
        if key not in self._shared:
            self._shared[key] = self.start(**options)
        return self._shared[key]

    def prepare(self, folder: Path) -> None:
        shutil.copy(self._template, folder / "db.sqlite3")

    def stop_all(self) -> None:
        # A kill is faster than a stop, and a run has hundreds of servers.
        for server in self.running():
            # With its workers, which would outlive the parent.
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()

    def build(self, folder: Path, **options: Any) -> LiveServer:
        return make_server(folder, **options)
