"""A Redis and its replica, watched by three sentinels."""

import subprocess
from pathlib import Path

import redis

from connections.testing.waiting import scale
from tests.integration.ports import hold_port
from tests.integration.redis_process import RedisProcess, find_redis_server

SERVICE = "main"
_QUORUM = 2


class Sentinels:
    """A primary, a replica, and three sentinels of which two decide."""

    def __init__(self, folder: Path) -> None:
        # By default a replica waits five seconds for others to copy with it.
        self.primary = RedisProcess("--repl-diskless-sync-delay", "0").start()
        replicates = ("--replicaof", "127.0.0.1", str(self.primary.port))
        self.replica = RedisProcess(*replicates).start()
        self._ports = [hold_port(self) for _ in range(3)]
        self._processes = [self._start(folder, port) for port in self._ports]

    @property
    def url(self) -> str:
        """The REDIS_URL of a node."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self._ports)
        return f"redis+sentinel://{hosts}/0?service={SERVICE}"

    def is_complete(self) -> bool:
        """Return True if the replica is in step and each sentinel knows all."""
        with self.replica.connect() as client:
            if client.info("replication").get("master_link_status") != "up":
                return False
        return all(map(self._knows_all, self._ports))

    def has_failed_over(self) -> bool:
        """Return True if the replica is the primary."""
        with self.replica.connect() as client:
            return bool(client.role()[0] == "master")

    def kill_first(self) -> None:
        """Kill the sentinel that the URL names first."""
        self._processes[0].kill()
        self._processes[0].wait(scale(10))

    def remove(self) -> None:
        """Stop all processes."""
        for process in self._processes:
            process.kill()
            process.wait(scale(10))
        self.primary.remove()
        self.replica.remove()

    def _start(self, folder: Path, port: int) -> subprocess.Popen[bytes]:
        own = folder / f"sentinel-{port}"
        own.mkdir()
        file = own / "sentinel.conf"
        file.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {own}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.primary.port} {_QUORUM}\n"
            # A primary that stands still for so long on a slow machine is replaced.
            f"sentinel down-after-milliseconds {SERVICE} {round(scale(2000))}\n"
            f"sentinel failover-timeout {SERVICE} {round(scale(4000))}\n"
        )
        return subprocess.Popen(
            [find_redis_server(), str(file), "--sentinel"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _knows_all(self, port: int) -> bool:
        try:
            with redis.Redis(port=port, decode_responses=True) as client:
                state = client.sentinel_master(SERVICE)
        except redis.ConnectionError:
            return False
        others = len(self._ports) - 1
        return bool(state["num-slaves"] == 1 and state["num-other-sentinels"] == others)
