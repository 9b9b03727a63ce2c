"""Start server processes on free ports, and read their use of memory and CPU."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from connections.capacity.load.procfs import read_cpu_seconds, read_memory_kib

ROOT = Path(__file__).resolve().parents[1]
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens URLs of this machine, whatever proxy the environment names."""

_START_SECONDS = 60


class StartFailed(Exception):
    """A process did not start; the text is the end of its log."""


class ServerProcess:
    """
    A server process, as a context manager.

    On entry it starts and waits until its port answers; on exit it is killed.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        port: int,
        log: Path,
        environment: Mapping[str, str] | None = None,
        folder: Path = ROOT,
    ) -> None:
        self.port = port
        self._argv = list(argv)
        self._log = log
        self._environment = {**os.environ, **(environment or {})}
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of the process."""
        if self._process is None:
            raise StartFailed("not started")
        return self._process.pid

    def __enter__(self) -> "ServerProcess":
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._argv,
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill the process, if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)

    def signal(self, number: int) -> None:
        """Send a signal without waiting."""
        os.kill(self.pid, number)

    def terminate(self, seconds: float) -> float:
        """Send SIGTERM; return the seconds until the process exits."""
        if self._process is None:
            raise StartFailed("not started")
        started = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(seconds)
        return time.monotonic() - started

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of all its threads, ended ones included."""
        return read_cpu_seconds(self.pid)

    def list_children(self) -> list[int]:
        """Return the ids of the processes that its main thread has started."""
        place = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(pid) for pid in place.read_text().split()]

    def memory_kib(self) -> int:
        """Return its proportional set size."""
        return read_memory_kib(self.pid)

    def log_tail(self, characters: int = 2000) -> str:
        """Return the end of its log."""
        return self._log.read_text(errors="replace")[-characters:]

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise StartFailed(self.log_tail())
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise StartFailed(f"no answer in {_START_SECONDS} s: {self.log_tail()}")


def read_family_cpu_seconds(pids: Sequence[int]) -> float:
    """Return the CPU seconds of a process, its children, and those that have ended."""
    ticks = 0
    # Parents come first: a child that ends meanwhile is counted with its parent's.
    for pid in reversed(pids):
        with suppress(FileNotFoundError):
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, stat[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")
