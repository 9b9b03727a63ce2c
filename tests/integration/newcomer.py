"""Follow a page of the documentation in an empty folder."""

import os
import shlex
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path

from connections.testing import free_port
from connections.testing.waiting import scale
from tests.pages import read_blocks, read_files
from tests.project import ROOT


class Newcomer:
    """A user in an empty folder who follows a page exactly."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.environment = {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.defpath]),
            "HOME": str(folder),
            "PORT": str(self.port),
            "PYTHONUNBUFFERED": "1",
            # Instead of pip install.
            "PYTHONPATH": str(ROOT),
        }
        self._log = folder / "log"
        self._started: list[subprocess.Popen[bytes]] = []

    def run(self, line: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a shell command; return its result."""
        return subprocess.run(
            line,
            shell=True,
            cwd=self.folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=scale(30),
        )

    def start(self, line: str) -> subprocess.Popen[bytes]:
        """Start a long-running shell command; all share one log."""
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                shlex.split(line, comments=True),
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        self._started.append(process)
        return process

    def stop(self) -> None:
        """Stop the running commands."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def log(self) -> str:
        """Return the shared log."""
        return self._log.read_text()

    def get(self, path: str) -> int:
        """Read a page whole, as browsers do, and return its HTTP status."""
        http = HTTPConnection("127.0.0.1", self.port, timeout=scale(20))
        http.request("GET", path)
        response = http.getresponse()
        response.read()
        http.close()
        return response.status

    def is_serving(self) -> bool:
        """Return whether a server answers on the port."""
        try:
            return self.get("/livez") == 200
        except OSError:
            return False

    def make_project(self, text: str) -> None:
        """Run the first commands of a page, and write its files."""
        *_, install, start = read_blocks(text, "sh")[0].splitlines()
        assert install.startswith("pip install ")
        assert self.run(start).returncode == 0
        self.folder /= "mysite"
        self.write_files(text)

    def write_files(self, text: str) -> None:
        """Write the files of a page or section, or add their ends."""
        for name, block, is_end in read_files(text):
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(path.read_text() + block if is_end else block)
