"""
In CI, run each live test that failed once more, alone, after all others.

One that passes then is printed as UNSTABLE with the report of its failure: it has
a fault, of ours or of the test, and is to be mended. More than two are a failure.
Tests within this process are not run again: they have no machine to blame. The end
of a log is what people see of it, so the causes of what failed are its last lines.

    python -m tests.plugins.unstable FILE...  # the failures that runs left there
    python -m tests.plugins.unstable --tell FILE...  # show them, and run nothing
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.plugins.selection import TESTS, is_live

MOST_UNSTABLE = 2
_FIRST_LINES, _LAST_LINES, _CHARACTERS = 5, 10, 300
"""How much of the errors of a failed test is shown again: lines, and of each."""

_TOLD = re.compile(r"E |(tests|connections|sessions_history)/[\w/]+\.py:\d+: ")
"""The lines of a report that are shown again: errors, and where they passed."""

Run = Callable[[str], "subprocess.CompletedProcess[str]"]


class FailureLog:
    """Writes which tests failed, whether they were live, and how."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failed: dict[str, str] = {}
        path.unlink(missing_ok=True)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            before = self._failed.get(report.nodeid, "")
            self._failed[report.nodeid] = f"{before}{report.longreprtext}\n"

    def pytest_sessionfinish(self) -> None:
        self._path.write_text(json.dumps(self._failed), encoding="utf-8")


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


def run_alone(nodeid: str) -> "subprocess.CompletedProcess[str]":
    """Run one test in a process of its own."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "--no-cov", nodeid]
    return subprocess.run(command, capture_output=True, text=True)


def tell(failed: dict[str, str]) -> int:
    """Print why each test failed, in few lines; return the exit code of a failure."""
    for nodeid, report in failed.items():
        shown = (line[:_CHARACTERS] for line in report.splitlines())
        lines = [one for one in shown if _TOLD.match(one)]
        if len(lines) > _FIRST_LINES + _LAST_LINES:
            lines[_FIRST_LINES:-_LAST_LINES] = ["..."]
        print(f"FAILED {nodeid}", *lines, sep="\n")
    return 1


def run_again(failed: dict[str, str], run: Run = run_alone) -> int:
    """Run failed live tests alone; return the exit code of the whole run."""
    final = [one for one in failed if not is_live(TESTS.parent / one.split("::")[0])]
    if final:
        print(f"{len(final)} failed test(s) within one process are not run again")
        return tell(failed)
    if len(failed) > MOST_UNSTABLE:
        print(f"{len(failed)} live tests failed; at most {MOST_UNSTABLE} are run again")
        return tell(failed)
    unstable = []
    for nodeid, report in failed.items():
        print(f"\nRunning once more, alone: {nodeid}", flush=True)
        done = run(nodeid)
        if done.returncode:
            print(done.stdout + done.stderr)
            return 1
        unstable.append((nodeid, report, done.stdout))
    for nodeid, report, passed in unstable:
        print(f"\nUNSTABLE {nodeid}: failed once, then passed alone")
        print(f"--- how it failed\n{report}\n--- how it passed\n{passed}")
    return 0


if __name__ == "__main__":
    failures: dict[str, str] = {}
    is_told = sys.argv[1] == "--tell"
    for name in sys.argv[1 + is_told :]:
        failures |= json.loads(Path(name).read_text(encoding="utf-8"))
    sys.exit(tell(failures) if is_told else run_again(failures))
