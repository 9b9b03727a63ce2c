"""
Mark every test by how it is run: `quick`, `live`, `promise` or `long`.

A live test starts processes, services or browsers. `script/test` runs the quick
tests and one live test for each promise of the README; `--all` runs everything
but `long`; `--long` runs the soaks alone.
"""

from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
LIVE_FOLDERS = ("abuse", "adoption", "faults", "integration", "packaging", "upgrade")


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "quick: runs within this process, in less than a few seconds (set by itself)",
        "live: starts processes, services or browsers (set by itself)",
        "promise: the one live test of a promise; `script/test` runs it",
        "long: takes minutes, and is run by `script/test --long` alone",
        "alone: measures this machine, so that no other test may run beside it",
    ):
        config.addinivalue_line("markers", line)


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    for item in items:
        if is_live(item.path):
            item.add_marker("live")
        elif item.get_closest_marker("slow") is None:
            item.add_marker("quick")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let no other test fail for the sockets that a failed one left open."""
    report = yield
    if report.failed and is_live(item.path):
        item.config.addinivalue_line("filterwarnings", "ignore::ResourceWarning")
    return report


def is_live(path: Path) -> bool:
    """Return True if the tests of a file start processes of their own."""
    return any(TESTS / name in path.parents for name in LIVE_FOLDERS)
