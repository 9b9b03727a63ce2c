"""
Mark every test by how it is run: `quick`, `live`, `promise` or `long`.

A live test starts processes, services or browsers. `script/test` runs the quick
tests and one live test for each promise of the README; `--all` runs everything
but `long`; `--long` runs the soaks alone.
"""

import re
from collections.abc import Generator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
LIVE_FOLDERS = (
    "abuse",
    "adoption",
    "faults",
    "incidents",
    "integration",
    "packaging",
    "upgrade",
)

WITHOUT_DJANGO = (
    "test_pool",
    "test_presence_redis",
    "test_presence_store",
    "test_redis",
    "test_server_deflate",
    "test_server_frames",
    "test_server_head",
    "test_server_timers",
)
"""The first part of the names of files whose subject hardly uses Django."""

PROMISES = frozenset(
    {
        # Limits, and the end of connections.
        "test_the_node_ends_its_own_idle_connections[serve]",
        "test_limits_and_records",
        "test_a_kick_takes_effect_on_every_node_without_a_beat",
        "test_the_sixth_connection_evicts_the_first_on_the_other_node",
        "test_a_killed_server_leaves_no_open_rows[serve]",
        "test_attack[vanish]",
        "test_attack[unread_small]",
        "test_attack[flood_of_large]",
        "test_attack[violations]",
        "test_attack[guessing]",
        # Rights.
        "test_who_is_refused_and_how[serve]",
        "test_in_the_process_of_the_node[daphne]",
        "test_across_processes_with_redis",
        "test_a_planted_secret_is_nowhere[daphne]",
        # Drain and outages.
        "test_a_rolling_restart_loses_nobody",
        "test_bye_names_the_moment_and_the_close_keeps_to_it",
        "test_nobody_is_dropped_and_the_limits_come_back[restart]",
        "test_a_restart_under_load",
        # Sessions.
        "test_what_clients_know_acked_is_the_log[sqlite]",
        "test_a_reload_in_the_middle_of_an_answer",
        # Adoption.
        "test_the_tutorials_rooms[limited-chat]",
        "test_a_project_keeps_every_promise[quickstart-sqlite]",
        "test_what_the_page_shows_is_what_is_open",
    }
)
"""The live tests that `script/test` runs: one for each promise that only they show."""


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "quick: runs within this process, in less than a few seconds (set by itself)",
        "live: starts processes, services or browsers (set by itself)",
        "promise: the one live test of a promise; `script/test` runs it",
        "source: reads the source alone, the same whatever Django is installed",
        "without_django: of a part that hardly uses Django (set by itself)",
        "long: takes minutes, and is run by `script/test --long` alone",
        "alone: measures this machine, so that no other test may run beside it",
    ):
        config.addinivalue_line("markers", line)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the tests in a browser where requirements.txt alone is installed."""
    is_ignored = (
        find_spec("playwright") is None
        and collection_path.suffix == ".py"
        and needs_browser(collection_path)
    )
    return is_ignored or None


@cache
def needs_browser(path: Path) -> bool:
    """Return True if a module imports Playwright, or a module of tests that does."""
    for name in re.findall(r"^ *from ([\w.]+) import", path.read_text(), re.MULTILINE):
        module = TESTS.parent / f"{name.replace('.', '/')}.py"
        if name.startswith("playwright."):
            return True
        if name.startswith("tests.") and module.is_file() and needs_browser(module):
            return True
    return False


def pytest_report_header() -> str | None:
    if find_spec("playwright") is not None:
        return None
    return "NOT RUN: tests in a browser; requirements/tests.txt has what they need"


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    for item in items:
        if is_live(item.path):
            item.add_marker("live")
            if item.name in PROMISES:
                item.add_marker("promise")
        elif not any(map(item.get_closest_marker, ("slow", "long"))):
            item.add_marker("quick")
        if item.path.name.startswith(WITHOUT_DJANGO):
            item.add_marker("without_django")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let no other test fail for the sockets that a failed one left open."""
    report = yield
    if report.failed:
        item.config.addinivalue_line("filterwarnings", "ignore::ResourceWarning")
    return report


@cache
def is_live(path: Path) -> bool:
    """Return True if the tests of a file start processes of their own."""
    return any(TESTS / name in path.parents for name in LIVE_FOLDERS)
