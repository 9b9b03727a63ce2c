"""Runs of the conformance suite: subsets of its cases, and servers under test."""

import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.conformance.suite import Python, run_cases
from benchmarks.processes import ROOT, ServerProcess, StartFailed
from benchmarks.site import make_site
from connections.capacity.load.procfs import free_port

_ENVIRONMENT = {
    "DJANGO_SETTINGS_MODULE": "orchestra.settings",
    "PYTHONPATH": str(ROOT),
    "LOG_LEVEL": "WARNING",
    "DATABASE_URL": "",
    "REDIS_URL": "",
    "WEBSOCKET_CONFIG": "",
    "WEBSOCKET__ECHO_ENDPOINT": "true",
    "WEBSOCKET__ANONYMOUS": "true",
    "WEBSOCKET__COMPRESSION__ENABLED": "true",
}

_RAISED = {
    "WEBSOCKET__MAX_MESSAGE_SIZE": "17MB",
    "WEBSOCKET__BUFFERS__MAX_SEND_BUFFER": "64MB",
    "WEBSOCKET__RATE_LIMIT__MESSAGES_PER_SECOND": "1000000",
    "WEBSOCKET__RATE_LIMIT__BURST_MESSAGES": "1000000",
    "WEBSOCKET__RATE_LIMIT__BYTES_PER_SECOND": "1GB",
    "WEBSOCKET__RATE_LIMIT__BURST_BYTES": "1GB",
}
"""Limits raised for section 9, with messages of up to 16 MiB."""

_TAIL_LINES = 20
_HOW_MANY = re.compile(r"Ok, will run (\d+) test cases")
_BEGINS = re.compile(r"Running test case ID (\d+)\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset:
    """A subset of cases, with its requirements."""

    cases: Sequence[str]
    excluded: Sequence[str] = ()
    has_raised_limits: bool = True
    seconds: float
    """Deadline of a run, several times its usual duration."""


_PROTOCOL = ("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*")

_OFFERS = (*(f"12.{one}" for one in range(1, 6)), *(f"13.{one}" for one in range(1, 8)))
_COMPRESSED = tuple(f"{offer}.{size}" for offer in _OFFERS for size in (1, 4))
"""Messages of 16 bytes and of 1 kB, for each kind of text and each offer. The names
are whole: the suite takes a pattern for the beginning of a name."""

SUBSETS = {
    "fast": Subset(cases=_PROTOCOL, has_raised_limits=False, seconds=200),
    "ci": Subset(
        cases=(*_PROTOCOL, "9.*", *_COMPRESSED),
        # Cases with megabytes, which the suite checks slowly.
        excluded=("9.1.5", "9.1.6", "9.2.5", "9.2.6", "9.3.*", "9.4.*", "9.7.6"),
        seconds=400,
    ),
    "compression": Subset(cases=("12.*", "13.*"), seconds=1800),
    "all": Subset(cases=("*",), seconds=1800),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server's command, its excluded cases, and its known failures."""

    command: Callable[[str], list[str]]
    excluded: Sequence[str] = ()
    known: Sequence[str] = ()
    why: str = ""


SERVERS = {
    "serve": Server(command=lambda port: ["manage.py", "serve", "--port", port]),
    "uvicorn": Server(
        command=lambda port: [
            *("-m", "uvicorn", "--port", port, "--log-level", "warning"),
            *("--ws-max-size", "17000000", "orchestra.asgi:application"),
        ],
        # The library implements compression; its cases take half an hour.
        excluded=("12.*", "13.*"),
        known=("7.1.5",),
        why="the websockets library treats a close within a fragmented message as an "
        "error (1002)",
    ),
}


class RunFailed(Exception):
    """The suite did not finish; the text is the end of its output."""


def run(server: str, subset: Subset, python: Python, suite: Path, report: Path) -> None:
    """
    Run cases against a new server; the suite writes its report.

    Raises:
        RunFailed: not all cases were run.
        StartFailed: the server did not start.
    """
    port = free_port()
    with make_site() as made:
        environment = {**_ENVIRONMENT, "ORCHESTRA_VAR": made}
        if subset.has_raised_limits:
            environment.update(_RAISED)
        _migrate(environment)
        process = ServerProcess(
            [sys.executable, *SERVERS[server].command(str(port))],
            port=port,
            log=Path(made) / "server.log",
            environment=environment,
        )
        specification = {
            "outdir": str(report),
            "servers": [
                {
                    "agent": server,
                    "url": f"ws://127.0.0.1:{port}/ws/echo/",
                    "origin": f"http://127.0.0.1:{port}",
                }
            ],
            "cases": list(subset.cases),
            "exclude-cases": [*subset.excluded, *SERVERS[server].excluded],
            "exclude-agent-cases": {},
        }
        with process:
            lines = run_cases(python, suite, specification, seconds=subset.seconds)
            _follow(lines, process)


def _migrate(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "migrate", "--verbosity", "0"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise StartFailed(done.stderr)


def _follow(lines: Iterator[str], process: ServerProcess) -> None:
    """Print the progress of the suite, and check that it finishes."""
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    expected, begun, section = 0, 0, ""
    for line in lines:
        tail.append(line)
        if found := _HOW_MANY.match(line):
            expected = int(found[1])
        elif found := _BEGINS.match(line):
            begun += 1
            if found[1] != section:
                section = found[1]
                print(f"section {section}, case {begun} of {expected}", file=sys.stderr)
    if not expected or begun < expected:
        raise RunFailed(
            f"{begun} of {expected} cases were run. Output of the suite:\n"
            f"{''.join(tail)}\nLog of the server:\n{process.log_tail()}"
        )
