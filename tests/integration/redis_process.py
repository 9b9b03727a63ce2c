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

from connections.testing.waiting import scale
from tests.integration.ports import hold_port

_START_SECONDS = 10


class RedisProcess:
    """One redis-server on its own port, without files."""

    def __init__(
        self, *arguments: str, password: str = "", has_bus: bool = False
    ) -> None:
        self.port = hold_port(self)
        # By default the bus has a port 10,000 above, and there may be none.
        self.bus_port = hold_port(self) if has_bus else 0
        self._password = password
        credential = f":{password}@" if password else ""
        self.url = f"redis://{credential}127.0.0.1:{self.port}/0"
        bus = ("--cluster-port", str(self.bus_port)) if has_bus else ()
        self._arguments: Sequence[str] = (*arguments, *bus, "--requirepass", password)
        self._folder = Path(tempfile.mkdtemp(prefix="redis-"))
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def clustered(cls, *, timeout_ms: int = 5000) -> "RedisProcess":
        """Return a node of a cluster; it owns no hash slots."""
        timeout = ("--cluster-node-timeout", str(timeout_ms))
        return cls("--cluster-enabled", "yes", *timeout, has_bus=True)

    def start(self) -> "RedisProcess":
        """Start the server and wait until it answers."""
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

    @property
    def is_running(self) -> bool:
        """True from start() until it is killed."""
        return self._process is not None

    def connect(self) -> redis.Redis:
        """Return a client for inspection."""
        return redis.Redis.from_url(
            self.url, decode_responses=True, socket_timeout=scale(5)
        )

    def flush(self) -> None:
        """Remove all keys and scripts."""
        with self.connect() as client:
            client.flushall()
            client.script_flush()

    def pause(self) -> None:
        """Freeze it; its connections stay open."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue it after pause()."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it; its contents are lost."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait(scale(10))
            self._process = None

    def remove(self) -> None:
        """Stop it and remove its folder."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, number)


def find_redis_server() -> str:
    """Return the path of redis-server; without one skip, or fail in CI."""
    found = shutil.which("redis-server")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("redis-server is not installed")
        pytest.skip("redis-server is not installed")
    return found
