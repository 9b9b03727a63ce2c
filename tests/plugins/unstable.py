"""
In CI, run each live test that failed once more, alone, after all others.

A test is live if it starts processes, or if it talks to a service that a fixture
started. One that passes then is printed as UNSTABLE with the report of its failure: it
has a fault, of ours or of the test, and is to be mended. More than two are a failure.
Tests within this process are not run again: they have no machine to blame. The end
of a log is what people see of it, so the causes of what failed are its last lines.

    python -m tests.plugins.unstable FILE...  # the failures that runs left there
    python -m tests.plugins.unstable --tell FILE...  # show them, and run nothing
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from tests.plugins.selection import TESTS, is_live

MOST_UNSTABLE = 2
_FIRST_LINES, _LAST_LINES, _CHARACTERS = 5, 10, 300
"""How much of the errors of a failed test is shown again: lines, and of each."""

_TOLD = re.compile(r"E |(tests|connections|sessions_history)/[\w/]+\.py:\d+: ")
"""The lines of a report that are shown again: errors, and where they passed."""

SERVICES = frozenset(
    {
        "postgres_server",
        "redis_process",
        "sentinels",
        "shared_redis",
        "shared_redis_cluster",
    }
)
"""The fixtures that start a service; others with one take it from these."""


@dataclass(frozen=True)
class Failure:
    """A test that failed, the Python that ran it, and how it failed."""

    nodeid: str
    report: str
    is_live: bool
    python: str = sys.executable


Run = Callable[[Failure], "subprocess.CompletedProcess[str]"]


class FailureLog:
    """Writes which tests failed, whether they were live, and how."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failed: dict[str, str] = {}
        self._with_service: set[str] = set()
        path.unlink(missing_ok=True)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if ("uses", "service") in map(tuple, report.user_properties):
            self._with_service.add(report.nodeid)
        if report.failed:
            before = self._failed.get(report.nodeid, "")
            self._failed[report.nodeid] = f"{before}{report.longreprtext}\n"

    def pytest_sessionfinish(self) -> None:
        failures = (
            Failure(
                nodeid,
                report,
                nodeid in self._with_service
                or is_live(TESTS.parent / nodeid.split("::")[0]),
            )
            for nodeid, report in self._failed.items()
        )
        self._path.write_text(json.dumps([*map(asdict, failures)]), encoding="utf-8")


@pytest.fixture(autouse=True)
def recorded_service(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Iterator[None]:
    """Record that a test uses a service, which its body may have asked for."""
    yield
    if SERVICES.intersection(request.fixturenames):
        record_property("uses", "service")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--failures-to",
        metavar="FILE",
        type=Path,
        help="write the tests that failed to a file, for tests.plugins.unstable",
    )


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--failures-to", None)
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(FailureLog(path), "failure-log")


def run_alone(failure: Failure) -> "subprocess.CompletedProcess[str]":
    """Run one test in a process of its own, with the Python that ran it before."""
    options = ("-m", "pytest", "-q", "-n", "0", failure.nodeid)
    return subprocess.run([failure.python, *options], capture_output=True, text=True)


def tell(failed: Sequence[Failure]) -> int:
    """Print why each test failed, in few lines; return the exit code of a failure."""
    for failure in failed:
        shown = (line[:_CHARACTERS] for line in failure.report.splitlines())
        lines = [one for one in shown if _TOLD.match(one)]
        if len(lines) > _FIRST_LINES + _LAST_LINES:
            lines[_FIRST_LINES:-_LAST_LINES] = ["..."]
        print(f"FAILED {failure.nodeid}", *lines, sep="\n")
    return 1


def run_again(failed: Sequence[Failure], run: Run = run_alone) -> int:
    """Run failed live tests alone; return the exit code of the whole run."""
    final = [failure for failure in failed if not failure.is_live]
    if final:
        print(f"{len(final)} failed test(s) within one process are not run again")
        return tell(failed)
    if len(failed) > MOST_UNSTABLE:
        print(f"{len(failed)} live tests failed; at most {MOST_UNSTABLE} are run again")
        return tell(failed)
    unstable = []
    for failure in failed:
        print(f"\nRunning once more, alone: {failure.nodeid}", flush=True)
        done = run(failure)
        if done.returncode:
            print(done.stdout + done.stderr)
            return 1
        unstable.append((failure, done.stdout))
    for failure, passed in unstable:
        print(f"\nUNSTABLE {failure.nodeid}: failed once, then passed alone")
        print(f"--- how it failed\n{failure.report}\n--- how it passed\n{passed}")
    return 0


if __name__ == "__main__":
    is_told = sys.argv[1] == "--tell"
    failures = [
        Failure(**one)
        for name in sys.argv[1 + is_told :]
        for one in json.loads(Path(name).read_text(encoding="utf-8"))
    ]
    sys.exit(tell(failures) if is_told else run_again(failures))
