"""
python -m benchmarks.sessions: measure the speed of sessions.

Measures SQLite, and a temporary PostgreSQL that syncs every commit to disk:
- entries per second that the log alone commits;
- entries per second that are acked to 200 clients at full speed;
- latency of acks at a steady 1,000 per second, beside the latency of pings at the
  same rate, which shows the share of machine and transport;
- the same acks, and the CPU time of the event loop for each, with the 200 sessions
  on 200 connections and on one;
- latency of a resume with 100 missed entries.

With --responder it measures messages per second that are acked and answered: each
client has eight under way, and each is echoed word by word, without a pause. With
--stream it measures the bytes that the database writes for an answer of 100 kB over
20 s: its WAL on PostgreSQL, all writes of the process on SQLite. With --answers it
measures 20 answers at a time, of 25 pieces per second, as text and as parts, by the
server and by another process: CPU time of a piece, and how long it takes to its client.

The load generator, the server and PostgreSQL share the machine, so the CPU time of
each per append means more than a rate.
"""

import argparse
import asyncio
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from benchmarks import answers
from benchmarks.appends import PAYLOAD
from benchmarks.processes import ROOT, ServerProcess, read_family_cpu_seconds
from benchmarks.report import describe_machine, make_table, summarise
from benchmarks.site import make_site
from connections.capacity.load.generator import Load
from connections.capacity.load.procfs import free_port, read_cpu_seconds

CLIENTS = 200
_WINDOW = 8
"""Messages in flight per client at full speed."""

_STEADY_PER_SECOND = 1_000
_EXPECTED_PER_SECOND = 10_000
_ENTRIES = 100
_RESUMES = 50
_ANSWERS = 20
_ANSWER_CHARACTERS = 100_000
_ANSWER_SECONDS = 20
_ANSWER_PIECES = 1000

_UNLIMITED = {
    "WEBSOCKET__ANONYMOUS": "true",
    "WEBSOCKET__MAX_CONNECTIONS_PER_CLIENT": "1000",
    "WEBSOCKET__RATE_LIMIT__MESSAGES_PER_SECOND": "100000",
    "WEBSOCKET__RATE_LIMIT__BURST_MESSAGES": "100000",
    "WEBSOCKET__RATE_LIMIT__BYTES_PER_SECOND": "1GB",
    "WEBSOCKET__RATE_LIMIT__BURST_BYTES": "1GB",
    "WEBSOCKET__SESSIONS__MAX_SESSIONS_PER_CONNECTION": str(CLIENTS),
    "WEBSOCKET__SESSIONS__MAX_OPEN_STREAMS": "16",
    "WEBSOCKET__SESSIONS__MAX_OPEN_STREAMS_PER_CLIENT": "100000",
    "WEBSOCKET__SESSIONS__MAX_OPEN_STREAMS_PER_NODE": "100000",
    "LOG_LEVEL": "WARNING",
}

_ECHO = {
    "SESSIONS_RESPONDER": "orchestra.responders.EchoResponder",
    "ECHO_DELAY_SECONDS": "0",
}

Figures = dict[str, float]
ListPids = Callable[[], Sequence[int]]
"""Returns the process ids of the database, its first process first."""


class CpuClock:
    """Measures the CPU time of processes from its creation on."""

    def __init__(self, server: ServerProcess, list_pids: ListPids) -> None:
        self._server = server
        self._list_pids = list_pids
        self._started = self._read()

    def per_append_us(self, count: float) -> Figures:
        """Return the CPU microseconds of each part per append."""
        spent = {name: now - self._started[name] for name, now in self._read().items()}
        return {name: 1e6 * one / max(1, count) for name, one in spent.items()}

    def _read(self) -> Figures:
        pid = self._server.pid
        server = read_cpu_seconds(pid)
        loop = read_cpu_seconds(pid, thread=pid)
        return {
            "cpu_us_event_loop": loop,
            "cpu_us_other_threads": server - loop,
            "cpu_us_database": read_family_cpu_seconds(self._list_pids()),
        }


def measure_sockets(
    server: ServerProcess, list_pids: ListPids, seconds: float
) -> Figures:
    """Return rates and latencies of 200 clients, and those of a resume."""
    with Load(server.port, module="benchmarks.appends") as load:
        load.do("begin", count=CLIENTS)
        load.do("go_steadily", seconds=1, per_second=_STEADY_PER_SECOND)
        clock = CpuClock(server, list_pids)
        fast = load.do(
            "go_fast",
            seconds=seconds,
            window=_WINDOW,
            expected=int(_EXPECTED_PER_SECOND * seconds),
        )
        found = {
            "acked_per_second": fast["per_second"],
            **clock.per_append_us(fast["count"]),
            "cpu_us_generator": fast["own_cpu_us"],
        }
        for name, is_ping in (("ping", True), ("ack", False)):
            times = load.do(
                "go_steadily",
                seconds=seconds,
                per_second=_STEADY_PER_SECOND,
                is_ping=is_ping,
            )
            found |= {f"{name}_{key}": times[key] for key in ("p50_ms", "p99_ms")}
        resumed = load.do("resume", entries=_ENTRIES, times=_RESUMES)
        found |= measure_shared(server, list_pids, load, seconds)
    found |= {f"resume_{key}": resumed[key] for key in ("p50_ms", "p99_ms")}
    return found


def measure_shared(
    server: ServerProcess, list_pids: ListPids, load: Load, seconds: float
) -> Figures:
    """Return the CPU time of steady acks, on 200 connections and then on one."""
    found: Figures = {}
    for name in ("apart", "shared"):
        if name == "shared":
            load.do("begin_shared", count=CLIENTS)
        load.do("go_steadily", seconds=1, per_second=_STEADY_PER_SECOND)
        clock = CpuClock(server, list_pids)
        steady = load.do("go_steadily", seconds=seconds, per_second=_STEADY_PER_SECOND)
        cpu_us = clock.per_append_us(steady["count"])["cpu_us_event_loop"]
        found[f"{name}_cpu_us_event_loop"] = cpu_us
        found |= {f"{name}_ack_{key}": steady[key] for key in ("p50_ms", "p99_ms")}
    ratio = found["shared_cpu_us_event_loop"] / found["apart_cpu_us_event_loop"]
    return {**found, "shared_to_apart_cpu": ratio}


def measure_answers(
    server: ServerProcess, list_pids: ListPids, seconds: float
) -> Figures:
    """Return the rate of messages of 200 clients that are acked and answered."""
    with Load(server.port, module="benchmarks.appends") as load:
        load.do("begin", count=CLIENTS, is_answered=True)
        clock = CpuClock(server, list_pids)
        fast = load.do("go_fast", seconds=seconds, window=_WINDOW, expected=CLIENTS)
        return {
            "acked_and_answered_per_second": fast["per_second"],
            **clock.per_append_us(fast["count"]),
            "ack_p50_ms": fast["p50_ms"],
            "ack_p99_ms": fast["p99_ms"],
        }


def measure_pieces(
    server: ServerProcess,
    list_pids: ListPids,
    environment: dict[str, str],
    seconds: float,
) -> Figures:
    """Return the cost and the delay of a piece of an answer, for each way to write."""
    found: Figures = {}
    pieces = int(seconds * answers.PIECES_PER_SECOND)
    with Load(server.port, module="benchmarks.answers") as load:
        sessions = load.do("begin_watched", count=_ANSWERS)["sessions"]
        for place, kind in itertools.product(("here", "elsewhere"), answers.KINDS):
            clock = CpuClock(server, list_pids)
            with ThreadPoolExecutor(1) as thread:
                if place == "here":
                    load.do("ask", kind=kind, pieces=pieces)
                else:
                    module = ("-m", "benchmarks.answers", kind, str(pieces), *sessions)
                    writing = thread.submit(_manage, environment, *module)
                watched = load.do("watch", pieces=pieces)
            figures = clock.per_append_us(watched["count"])
            if place == "elsewhere":
                spent = float(writing.result())
                figures["cpu_us_producer"] = 1e6 * spent / watched["count"]
            figures |= {key: watched[key] for key in ("p50_ms", "p99_ms")}
            found |= {f"{kind}_{place}_{key}": one for key, one in figures.items()}
    return found


async def measure_stream() -> float:
    """Return the bytes written for one answer; needs django.setup()."""
    from connections.config.loader import get_config
    from connections.storage.database import Database
    from sessions_history.log import SessionLog
    from sessions_history.models import Session

    database = Database()
    log = SessionLog(database, node_id="n" * 32, config=get_config())
    row = Session(session_id=os.urandom(16).hex(), client_id="client", epoch="e")
    (session,) = await database.write(Session.objects.bulk_create, [row])
    before = await database.read(_read_written)
    characters = _ANSWER_CHARACTERS // _ANSWER_PIECES
    async with log.stream(session.session_id) as stream:
        for _ in range(_ANSWER_PIECES):
            await stream.write(os.urandom(characters // 2).hex())
            await asyncio.sleep(_ANSWER_SECONDS / _ANSWER_PIECES)
    await log.stop()
    written = await database.read(_read_written) - before
    await database.close()
    return written


def _read_written() -> int:
    """Return how many bytes were written so far."""
    from connections.models.alias import get_connection

    connection = get_connection()
    if connection.vendor == "sqlite":
        lines = Path("/proc/self/io").read_text().splitlines()
        return int(dict(line.split(": ") for line in lines)["wchar"])
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
        return int(cursor.fetchone()[0])


async def measure_log(seconds: float) -> float:
    """Return the entries per second that the log commits; needs django.setup()."""
    from connections.config.loader import get_config
    from connections.storage.database import Database
    from sessions_history.log import SessionLog
    from sessions_history.models import Session

    database = Database()
    log = SessionLog(database, node_id="n" * 32, config=get_config())
    rows = [
        Session(session_id=os.urandom(16).hex(), client_id=f"client-{n}", epoch="e")
        for n in range(CLIENTS)
    ]
    sessions = await database.write(Session.objects.bulk_create, rows)
    ends_at = time.perf_counter() + seconds
    counts = itertools.count()

    async def append(session_id: str, place: int) -> None:
        prefix = os.urandom(8).hex()
        while time.perf_counter() < ends_at:
            await log.say(session_id, f"{prefix}-{next(counts)}", PAYLOAD)

    await asyncio.gather(
        *(append(one.session_id, place) for one in sessions for place in range(_WINDOW))
    )
    await log.stop()
    await database.close()
    return next(counts) / seconds


@contextmanager
def serve(folder: Path, environment: dict[str, str]) -> Iterator[ServerProcess]:
    """Migrate the database and start a server."""
    port = free_port()
    argv = [sys.executable, "manage.py", "serve", "--port", str(port)]
    _manage(environment, "manage.py", "migrate", "--verbosity", "0")
    with ServerProcess(
        argv, port=port, log=folder / "server.log", environment=environment
    ) as server:
        yield server


def measure(
    folder: Path,
    database_url: str,
    list_pids: ListPids,
    arguments: argparse.Namespace,
) -> Figures:
    """Return the figures that were asked for, for one empty database."""
    seconds: float = arguments.seconds
    environment = {
        **os.environ,
        **_UNLIMITED,
        "DJANGO_SETTINGS_MODULE": "orchestra.settings",
        "ORCHESTRA_VAR": str(folder),
        "DATABASE_URL": database_url,
    }
    if arguments.responder:
        with serve(folder, {**environment, **_ECHO}) as server:
            return measure_answers(server, list_pids, seconds)
    if arguments.answers:
        responder = {"SESSIONS_RESPONDER": "benchmarks.answers.Responder"}
        with serve(folder, {**environment, **responder}) as server:
            return measure_pieces(server, list_pids, environment, seconds)
    module = ("-m", "benchmarks.sessions", "--here")
    if arguments.stream:
        _manage(environment, "manage.py", "migrate", "--verbosity", "0")
        return {"written_bytes": float(_manage(environment, *module, "--stream"))}
    with serve(folder, environment) as server:
        found = measure_sockets(server, list_pids, seconds)
    alone = float(_manage(environment, *module, "--seconds", str(seconds)))
    return {"committed_per_second": alone, **found}


def measure_round(arguments: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    """Measure each database once."""
    only: str | None = arguments.only
    with make_site() as folder:
        place = Path(folder)
        if only != "postgresql":
            url = f"sqlite:///{place / 'db.sqlite3'}"
            yield "SQLite", measure(place, url, list, arguments)
        if only != "sqlite":
            from tests.integration.services import PostgresProcess

            server = PostgresProcess(is_synced=True)
            try:
                server.create()
                url = server.create_database("benchmark")
                yield "PostgreSQL", measure(place, url, server.pids, arguments)
            finally:
                server.remove()


def _manage(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.strip()


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sessions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--seconds", type=float, default=8, help="duration of each load"
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", choices=("sqlite", "postgresql"))
    parser.add_argument(
        "--responder", action="store_true", help="measure messages with answers"
    )
    parser.add_argument(
        "--stream", action="store_true", help="measure the bytes of one answer"
    )
    parser.add_argument(
        "--answers", action="store_true", help="measure the pieces of answers"
    )
    parser.add_argument(
        "--here",
        action="store_true",
        help="measure only the log, or one answer, in this process",
    )
    arguments = parser.parse_args()
    if arguments.here:
        import django

        django.setup()
        measuring = (
            measure_stream() if arguments.stream else measure_log(arguments.seconds)
        )
        print(asyncio.run(measuring))
        return 0
    found: dict[str, list[Figures]] = {}
    for _ in range(arguments.rounds):
        for name, figures in measure_round(arguments):
            found.setdefault(name, []).append(figures)
    machine = describe_machine()
    print(
        f"{machine['processor']}, {machine['cores']} cores,"
        f" load {machine['load_average']:.1f}, {machine['revision']}"
    )
    names = list(next(iter(found.values()))[0])
    rows = [
        [name, *(summarise([one[name] for one in some]) for some in found.values())]
        for name in names
    ]
    print(make_table(["", *found], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
