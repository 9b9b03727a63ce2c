"""Many servers of a test, started in their way and ended together."""

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
        """All of them, whether they run or not."""

    def start(self, *, is_ready: bool = True, **options: Any) -> LiveServer:
        """Start a server; options are LiveServer's, and `folder` to share one."""
        return self.make(**options).start(is_ready=is_ready)

    def start_pair(
        self, *, second: Mapping[str, Any] | None = None, **options: Any
    ) -> tuple[LiveServer, LiveServer]:
        """
        Start two servers at once that share a folder, and so a database.

        `second` says what differs for the second one.
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
        """Put into a new folder what a server needs there; nothing, by default."""

    def build(self, folder: Path, **options: Any) -> LiveServer:
        """Return the server; a subclass gives it what all of a project's need."""
        return LiveServer(folder=folder, **options)

    def running(self) -> list[LiveServer]:
        """Return those that have not ended."""
        return [server for server in self.made if server.is_running]

    def stop_all(self) -> None:
        """End every server that still runs."""
        for server in self.made:
            server.stop()
