"""Start the servers of a test, and end them together."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from connections.testing.processes import LiveServer


class Servers:
    """Starts servers, and ends them all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.made: list[LiveServer] = []
        """All servers, running or not."""

    def start(self, *, is_ready: bool = True, **options: Any) -> LiveServer:
        """Start a server; options are LiveServer's. Servers may share a `folder`."""
        return self.make(**options).start(is_ready=is_ready)

    def start_pair(
        self, *, second: Mapping[str, Any] | None = None, **options: Any
    ) -> tuple[LiveServer, LiveServer]:
        """
        Start two servers at once that share a folder and a database.

        `second` overrides options of the second server.
        """
        first = self.make(**options)
        other = self.make(**{**options, "folder": first.folder, **(second or {})})
        for server in (first, other):
            server.start(is_ready=False)
        for server in (first, other):
            server.wait_ready()
        return first, other

    def make(self, *, folder: Path | None = None, **options: Any) -> LiveServer:
        """Prepare a server without starting it."""
        if folder is None:
            folder = Path(tempfile.mkdtemp(dir=self._folder))
            self.prepare(folder)
        server = self.build(folder, **options)
        self.made.append(server)
        return server

    def prepare(self, folder: Path) -> None:
        """Put the files that a server needs into a new folder; by default none."""

    def build(self, folder: Path, **options: Any) -> LiveServer:
        """Make a server; a subclass adds the options of its project."""
        return LiveServer(folder=folder, **options)

    def running(self) -> list[LiveServer]:
        """Return the servers that still run."""
        return [server for server in self.made if server.is_running]

    def stop_all(self) -> None:
        """End every server that still runs."""
        for server in self.made:
            server.stop()
