"""A private Redis Cluster of three primaries, each with a replica."""

import subprocess
import time
from contextlib import suppress
from typing import Any

import redis

from connections.testing import StartFailed
from connections.testing.waiting import scale
from tests.integration.redis_process import RedisProcess
from tests.integration.services import find_program

_START_SECONDS = 60

_MANUAL_SECONDS = 6
"""Redis gives up a manual fail-over after 5 s, and does not try it again."""

PRIMARIES = 3


class RedisCluster:
    """Six processes; a primary that is killed is failed over to its replica."""

    def __init__(self) -> None:
        # A node that stands still for so long on a slow machine is failed over.
        timeout_ms = round(scale(1500))
        self.nodes = [RedisProcess.clustered(timeout_ms=timeout_ms) for _ in range(6)]

    @property
    def url(self) -> str:
        """Names two nodes, so that one may be away."""
        ports = [node.port for node in self.nodes[:2]]
        return f"redis+cluster://127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}"

    def start(self) -> "RedisCluster":
        """Start the processes, and wait until each knows all."""
        for node in self.nodes:
            node.start()
        done = subprocess.run(
            [
                *(find_program("redis-cli"), "--cluster", "create"),
                *(f"127.0.0.1:{one.port}@{one.bus_port}" for one in self.nodes),
                *("--cluster-replicas", "1", "--cluster-yes"),
            ],
            capture_output=True,
            text=True,
            timeout=scale(_START_SECONDS),
        )
        if done.returncode:
            raise StartFailed(done.stdout + done.stderr)
        self.wait_until_whole()
        return self

    def find_primary(self, key: str) -> RedisProcess:
        """Return the primary that has a key, as the nodes that run know it."""
        for node in self._running():
            with node.connect() as client:
                found: Any = client.execute_command("CLUSTER", "SLOTS")
                hash_slot: int = client.cluster("KEYSLOT", key)
            for first, last, primary, *_ in found:
                if first <= hash_slot <= last:
                    return next(one for one in self.nodes if one.port == primary[1])
        raise LookupError(f"no primary has {key}")

    def wait_for_failover(self, killed: RedisProcess) -> None:
        """Wait until the replica of a killed or paused primary has taken its place."""
        others = [node for node in self._running() if node is not killed]
        self._wait_until(
            lambda: all(
                _is_ok(node) and killed.port not in _primary_ports(node)
                for node in others
            )
        )

    def fail_over_to(self, node: RedisProcess, key: str) -> None:
        """Make a replica the primary of a key, and wait until the cluster is whole."""
        asks_at = 0.0

        def has_taken_over() -> bool:
            nonlocal asks_at
            if self.find_primary(key) is node:
                return True
            if time.monotonic() >= asks_at:
                asks_at = time.monotonic() + _MANUAL_SECONDS
                # It may be the primary by now.
                with suppress(redis.ResponseError), node.connect() as client:
                    client.execute_command("CLUSTER", "FAILOVER")
            return False

        self._wait_until(has_taken_over)
        self.wait_until_whole()

    def wait_until_whole(self) -> None:
        """Wait until three primaries have a replica each, in step with it."""
        self._wait_until(lambda: all(map(_is_whole, self.nodes)))

    def repair(self) -> None:
        """Start again what was killed, as replicas, and wait for them."""
        for node in self.nodes:
            node.resume()
            if not node.is_running:
                node.start()
        self.wait_until_whole()

    def flush(self) -> None:
        """Remove all keys and scripts."""
        for node in self.nodes:
            with node.connect() as client:
                if client.role()[0] == "master":
                    node.flush()

    def remove(self) -> None:
        """Stop the processes and remove their folders."""
        for node in self.nodes:
            node.remove()

    def _running(self) -> list[RedisProcess]:
        return [node for node in self.nodes if node.is_running]

    def _wait_until(self, condition: Any) -> None:
        deadline = time.monotonic() + scale(_START_SECONDS)
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError("the Redis Cluster does not settle")
            time.sleep(0.05)


def _is_ok(node: RedisProcess) -> bool:
    with node.connect() as client:
        found: Any = client.cluster("INFO")
    return bool(found["cluster_state"] == "ok")


def _primary_ports(node: RedisProcess) -> set[int]:
    with node.connect() as client:
        found: Any = client.execute_command("CLUSTER", "SLOTS")
    return {primary[1] for _, _, primary, *_ in found}


def _is_whole(node: RedisProcess) -> bool:
    with node.connect() as client:
        found: Any = client.execute_command("CLUSTER", "SLOTS")
        role: Any = client.role()
    is_linked = role[0] == "master" or role[3] == "connected"
    pairs = [len(nodes) == 2 for _, _, *nodes in found]
    return is_linked and _is_ok(node) and pairs == [True] * PRIMARIES
