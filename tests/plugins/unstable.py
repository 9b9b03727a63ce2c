"""
In CI, run each live test that failed once more, alone, after all others.

One that passes then is printed as UNSTABLE with the report of its failure: it has
a fault, of ours or of the test, and is to be mended. More than two are a failure.
Tests within this process are not run again: they have no machine to blame.

    python -m tests.plugins.unstable FILE...  # the failures that runs left there
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugins.selection import TESTS, is_live

MOST_UNSTABLE = 2


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


def run_again(failed: dict[str, str]) -> int:
    """Run failed live tests alone; return the exit code of the whole run."""
    final = [one for one in failed if not is_live(TESTS.parent / one.split("::")[0])]
    if final:
        print(f"{len(final)} failed test(s) within one process are not run again")
        return 1
    if len(failed) > MOST_UNSTABLE:
        print(f"{len(failed)} live tests failed; at most {MOST_UNSTABLE} are run again")
        return 1
    unstable = []
    for nodeid, report in failed.items():
        print(f"\nRunning once more, alone: {nodeid}", flush=True)
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "--no-cov", nodeid]
        done = subprocess.run(command, capture_output=True, text=True)
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
    for name in sys.argv[1:]:
        failures |= json.loads(Path(name).read_text(encoding="utf-8"))
    sys.exit(run_again(failures))
