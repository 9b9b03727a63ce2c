"""Build the tree of deploy/Dockerfile without Docker, and run programs in it."""

import contextlib
import fnmatch
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from connections.testing import StartFailed, free_port
from connections.testing.waiting import scale
from tests.project import ROOT

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
_START_SECONDS = 60


class Image:
    """The files that the last stage of the Dockerfile copies, and its settings."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.var = folder / "var"
        self.var.mkdir(parents=True)
        self.environment: dict[str, str] = {}
        self.command: list[str] = []
        """The entry point with its default arguments."""
        self.health_check: list[str] = []
        ignored = (ROOT / ".dockerignore").read_text().split()
        for name, text in _read_last_stage():
            if name == "COPY" and not text.startswith("--from"):
                *sources, target = text.split()
                for source in sources:
                    self._copy(source, target, ignored)
            elif name == "ENV":
                pairs = (one.partition("=") for one in shlex.split(text))
                self.environment |= {key: value for key, _, value in pairs}
            elif name in ("ENTRYPOINT", "CMD"):
                self.command += json.loads(text)
            elif name == "HEALTHCHECK":
                self.health_check = json.loads(text.partition(" CMD ")[2])

    def run(self, command: list[str], **environment: str) -> str:
        """Run a command to its end; return its output."""
        done = subprocess.run(
            self._prepare(command),
            cwd=self.root,
            env=self._make_environment(environment),
            capture_output=True,
            text=True,
            timeout=scale(60),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextlib.contextmanager
    def serve(self, **environment: str) -> Iterator[int]:
        """Run the command of the image, and yield the port where it serves."""
        port = free_port()
        command = [str(port) if one == "8000" else one for one in self.command]
        log = self.var / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self._prepare(command),
                cwd=self.root,
                env=self._make_environment(environment),
                stdout=output,
                stderr=output,
            )
        try:
            deadline = time.monotonic() + scale(_START_SECONDS)
            while not _is_live(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise StartFailed(log.read_text())
                time.sleep(0.05)
            yield port
        finally:
            for _ in range(2):  # The second signal skips the grace period.
                process.send_signal(signal.SIGTERM)
            process.wait(scale(20))

    def list_files(self) -> list[str]:
        """Return the paths of all files of the tree."""
        found = (path for path in self.root.rglob("*") if path.is_file())
        return sorted(str(path.relative_to(self.root)) for path in found)

    def _copy(self, source: str, target: str, ignored: list[str]) -> None:
        """Copy as COPY does: the content of a folder, a file under its name."""
        destination = self.root / target

        def ignore(folder: str, names: list[str]) -> set[str]:
            paths = {name: os.path.relpath(f"{folder}/{name}", ROOT) for name in names}
            return {name for name, path in paths.items() if _is_ignored(path, ignored)}

        if (ROOT / source).is_dir():
            shutil.copytree(
                ROOT / source, destination, ignore=ignore, dirs_exist_ok=True
            )
            return
        destination.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / source, destination)

    def _prepare(self, command: list[str]) -> list[str]:
        """Put this interpreter in the place of the one in the image."""
        program, *arguments = command
        return [sys.executable if program == "python" else program, *arguments]

    def _make_environment(self, changes: dict[str, str]) -> dict[str, str]:
        own = {**self.environment, "ORCHESTRA_VAR": str(self.var)}
        own.pop("PATH")
        return {"PATH": os.environ["PATH"], **own, **changes}


def _read_last_stage() -> list[tuple[str, str]]:
    """Return the instructions behind the last FROM, with their arguments."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and line[0] != "#"]
    last = max(index for index, line in enumerate(lines) if line.startswith("FROM"))
    pairs = (line.partition(" ") for line in lines[last + 1 :])
    return [(name, argument.strip()) for name, _, argument in pairs]


def _is_ignored(path: str, patterns: list[str]) -> bool:
    """Match a path as Docker does, for the forms that .dockerignore has."""
    return any(
        fnmatch.fnmatch(Path(path).name, pattern.removeprefix("**/"))
        if pattern.startswith("**/")
        else fnmatch.fnmatch(path, pattern)
        for pattern in patterns
    )


def _is_live(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=scale(2)):
            return True
    except OSError:
        return False
