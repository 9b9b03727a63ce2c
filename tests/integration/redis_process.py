"""A private Redis that tests can pause, kill and restart."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import redis

from connections.testing import free_port
from connections.testing.waiting import scale

_START_SECONDS = 10


class RedisProcess:
    """One redis-server on a port of its own, with nothing on disk."""

    def __init__(self, *arguments: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._arguments: Sequence[str] = arguments
        self._folder = Path(tempfile.mkdtemp(prefix="redis-"))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "RedisProcess":
        """Start it and wait until it answers."""
        self._process = subprocess.Popen(
            [
                *(find_redis_server(), "--port", str(self.port)),
                *("--bind", "127.0.0.1", "--dir", str(self._folder)),
                *("--save", "", "--appendonly", "no", "--loglevel", "warning"),
                *self._arguments,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + scale(_START_SECONDS)
        while True:
            with contextlib.suppress(redis.ConnectionError), self.connect() as client:
                client.ping()
                return self
            if time.monotonic() > deadline:
                raise TimeoutError("redis-server does not answer")
            time.sleep(0.02)

    def connect(self) -> redis.Redis:
        """Return a client to look inside with."""
        return redis.Redis(port=self.port, decode_responses=True, socket_timeout=5)

    def flush(self) -> None:
        """Forget everything, scripts included."""
        with self.connect() as client:
            client.flushall()
            client.script_flush()

    def pause(self) -> None:
        """Let it stand still, its connections open."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once; whatever it held is gone."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait(scale(10))
            self._process = None

    def remove(self) -> None:
        """End it for good."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, number)


def find_redis_server() -> str:
    """Return the program; without one skip at home and fail in CI."""
    found = shutil.which("redis-server")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("redis-server is not installed")
        pytest.skip("redis-server is not installed")
    return found
