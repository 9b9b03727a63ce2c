import dataclasses
import json
import subprocess
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from django.core.management.base import CommandError, CommandParser

from connections.capacity.load.generator import Load, LoadFailed
from connections.capacity.load.procfs import (
    allow_many_files,
    free_port,
    read_available_kib,
    read_cpu_seconds,
    read_memory_kib,
)
from connections.capacity.load.sockets import LOOPBACK
from connections.capacity.probe import (
    Attempt,
    Bounds,
    Ramp,
    Step,
    attempt,
    count_clients,
    estimate_capacity,
    find_no_eviction,
)
from connections.capacity.target import (
    choose_host,
    make_tokens,
    measure_drain,
    require_tokens,
    start_server,
)
from connections.config.kinds import Number, Whole
from connections.config.loader import get_config
from connections.exceptions import ConfigError
from connections.management.operator_command import OperatorCommand
from connections.models import Node
from connections.pool.choice import choose_pool, get_redis_url

_TEXTS = {
    "connections": "{:,}",
    "connects_per_second": "{:,.0f}",
    "connect_p99_ms": "{:,.0f}",
    "round_trips_per_second": "{:,.0f}",
    "round_trip_p50_ms": "{:.1f}",
    "round_trip_p99_ms": "{:.1f}",
    "round_trip_cpu_us": "{:.0f}",
    "idle_cpu_percent": "{:.1f}",
    "kib_per_connection": "{:.1f}",
}


class Command(OperatorCommand):
    help = (
        "Measure how many connections one node can carry on this machine: open real "
        "connections in steps, to a new server or to a running one."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--path",
            default="/ws/echo/",
            help="path of the consumer (default: %(default)s, of the reference"
            " application)",
        )
        parser.add_argument(
            "--message",
            default="",
            help="text that some connections send; the consumer must answer with one "
            "message (default: WebSocket pings, which consumers do not see)",
        )
        parser.add_argument(
            "--steps",
            default="500,1000,2000,4000",
            help="increasing numbers of connections (default: %(default)s)",
        )
        self.add_number(
            parser,
            "--seconds",
            Number(0.1, 3600),
            default=2,
            help="duration of each measurement of a step (default: %(default)s)",
        )
        self.add_number(
            parser,
            "--messages-per-second",
            Number(0.001, 1e6),
            default=0.1,
            metavar="RATE",
            help="expected rate of each connection in use (default: %(default)s)",
        )
        self.add_number(
            parser,
            "--max-p99-ms",
            Number(0.1, 1e6),
            default=500,
            metavar="MS",
            help="stop when the p99 of round trips is higher (default: %(default)s)",
        )
        parser.add_argument(
            "--url",
            help="ws://host:port of a running server; raise its"
            " rate_limit.small_frames_per_second and rate_limit.burst_small_frames,"
            " which end the measurement (4129)",
        )
        self.add_number(
            parser,
            "--pid",
            Whole(1, 2**22),
            help="with --url: process id of the server, to measure CPU and memory",
        )
        parser.add_argument("--json", action="store_true", help="print only JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        counts = _read_steps(options["steps"])
        if options["pid"] is not None:
            _check_pid(options["pid"], options["url"])
        max_files = allow_many_files()
        if max(counts) > max_files - 100:
            raise CommandError(
                f"--steps: this process may open only {max_files} files (ulimit -Hn)"
            )
        try:
            found = self._measure_as_clients(counts, options)
            available_kib = read_available_kib()
        except BrokenPipeError:
            raise  # The reader of the output has left, which execute() handles.
        except (LoadFailed, ConfigError, OSError) as exc:
            raise CommandError(f"the measurement failed: {exc}") from exc
        bounds = estimate_capacity(
            [Step(**step) for step in found["steps"]],
            available_kib=available_kib,
            max_files=max_files,
            messages_per_second=options["messages_per_second"],
        )
        found |= {
            "bounds": dataclasses.asdict(bounds),
            "max_total_connections": bounds.max_total_connections,
            "decided_by": bounds.decided_by,
        }
        if options["json"]:
            self.stdout.write(json.dumps(found, indent=2))
        else:
            self._conclude(bounds, found, options["messages_per_second"])

    def _measure_as_clients(
        self, counts: Sequence[int], options: dict[str, Any]
    ) -> dict[str, Any]:
        """Measure the server of --url, or start one, as temporary clients."""
        config = get_config()
        require_tokens(config)
        if options["url"]:
            host, port = _read_url(options["url"])
        else:
            _require_no_nodes()
            host, port = LOOPBACK, free_port()
        clients = count_clients(counts, config.max_connections_per_client)
        with make_tokens(clients) as tokens:
            if options["url"]:
                return self._measure(host, port, tokens, counts, options)
            with start_server(port) as server:
                options = {**options, "pid": server.pid}
                return self._measure(host, port, tokens, counts, options, server)

    def _measure(
        self,
        host: str,
        port: int,
        tokens: list[str],
        counts: Sequence[int],
        options: dict[str, Any],
        server: "subprocess.Popen[bytes] | None" = None,
    ) -> dict[str, Any]:
        """Take the steps at a server, then measure an eviction and its own drain."""
        named = choose_host(host, port)
        headers = [
            f"Host: {named}\r\nAuthorization: Bearer {token}\r\n" for token in tokens
        ]
        with Load(port, host=host, path=options["path"]) as load:
            *shared, last = headers
            ramp = Ramp(
                load,
                headers=shared,
                pid=options["pid"],
                message=options["message"],
                seconds=options["seconds"],
                most_p99_ms=options["max_p99_ms"],
            )
            steps = []
            for step in ramp.run(counts):
                steps.append(dataclasses.asdict(step))
                self._show(steps, is_quiet=options["json"])
            evicted = _try_eviction(ramp, last)
            drained: Attempt = None, "the server of --url goes on"
            if server is not None:
                drained = attempt(lambda: measure_drain(load, server))
        found: dict[str, Any] = {"steps": steps, "stopped_by": ramp.stopped_by}
        found["eviction_ms"], found["no_eviction"] = evicted
        found["drain_seconds"], found["no_drain"] = drained
        return found

    def _show(self, steps: list[dict[str, Any]], *, is_quiet: bool) -> None:
        """Print the last step."""
        if is_quiet:
            return
        names = [name.replace("_", " ") for name in _TEXTS]
        if len(steps) == 1:
            self.stdout.write(" | ".join(names))
        cells = [
            ("-" if steps[-1][key] is None else text.format(steps[-1][key])).rjust(
                len(name)
            )
            for (key, text), name in zip(_TEXTS.items(), names, strict=True)
        ]
        self.stdout.write(" | ".join(cells))
        self.stdout.flush()

    def _conclude(
        self, bounds: Bounds, found: dict[str, Any], messages_per_second: float
    ) -> None:
        lines = [""]
        if found["stopped_by"]:
            lines.append(f"Stopped early: {found['stopped_by']}")
        if found["eviction_ms"] is not None:
            lines.append(
                f"An eviction closes the oldest connection in "
                f"{found['eviction_ms']:.0f} ms"
            )
        else:
            lines.append(f"No eviction was measured: {found['no_eviction']}")
        if found["drain_seconds"] is not None:
            grace_seconds = get_config().drain.grace_seconds
            lines.append(
                f"A drain takes {found['drain_seconds']:.1f} s "
                f"(drain.grace_seconds: {grace_seconds:g})"
            )
        else:
            lines.append(f"No drain was measured: {found['no_drain']}")
        reasons = {
            "memory": bounds.memory,
            f"CPU, at {messages_per_second:g} messages/s each": bounds.cpu,
            "open files": bounds.files,
        }
        known = [f"{count:,} by {why}" for why, count in reasons.items() if count]
        lines.append(f"{bounds.opened:,} were open; estimated: {', '.join(known)}")
        lines.append(
            f"max_total_connections: {bounds.max_total_connections}, "
            f"bounded by {bounds.decided_by}"
        )
        self.stdout.write("\n".join(lines))


def _try_eviction(ramp: Ramp, headers: str) -> Attempt:
    """Measure the ms of an eviction where there should be one."""
    config = get_config()
    why = "the steps stopped early" if ramp.stopped_by else find_no_eviction(config)
    if why:
        return None, why
    limit = config.max_connections_per_client
    return attempt(lambda: ramp.measure_eviction(headers, limit))


def _check_pid(pid: int, url: str | None) -> None:
    """
    Check that the process of --pid can be measured.

    Raises:
        CommandError: there is none, it belongs to another user, or --url is missing.
    """
    if not url:
        raise CommandError("--pid needs --url")
    try:
        read_cpu_seconds(pid)
        read_memory_kib(pid)
    except OSError as exc:
        raise CommandError(f"--pid {pid}: it cannot be measured: {exc}") from exc


def _require_no_nodes() -> None:
    """
    Refuse to fill a pool from which serving nodes admit their clients.

    Raises:
        CommandError: such nodes serve.
    """
    config = get_config()
    if choose_pool(config, get_redis_url()) == "memory":
        return
    count = Node.objects.serving_within(config.node.node_timeout_seconds).count()
    if count:
        raise CommandError(
            f"nodes that serve with this database: {count}. The measurement would take"
            " slots of their shared pool, and their clients would be refused. Give it"
            " a database and a Redis of its own, or measure a node with --url"
        )


def _read_steps(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError as exc:
        raise CommandError(
            f"--steps {text}: expected numbers such as 500,1000"
        ) from exc
    if counts != sorted(set(counts)) or counts[0] < 1:
        raise CommandError(f"--steps {text}: expected increasing numbers from 1 on")
    return counts


def _read_url(text: str) -> tuple[str, int]:
    parts = urlsplit(text)
    if parts.scheme != "ws" or not parts.hostname:
        raise CommandError(
            f"--url {text}: expected ws://host:port (TLS is not supported)"
        )
    try:
        return parts.hostname, parts.port or 80
    except ValueError as exc:
        raise CommandError(f"--url {text}: {exc}") from exc
