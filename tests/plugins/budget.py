"""
Fail a run in which a test file took longer than its budget in tests/budget.toml.

A budget is in seconds on the reference machine (two quiet cores), for all tests of
a file together. It is held in CI, where the file runs on a machine of its own;
elsewhere the run prints the files that are over and passes. Deadlines scale with
the machine, and so do budgets: a machine that was slower at the end of a run than at
its beginning counts as it was at the end. A file with a failed test is held to none:
that test may have waited for a deadline. Workers of pytest-xdist run the files with
the largest budgets first.
"""

import os
import tomllib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

from connections.testing.waiting import scale
from tests.machine import measure_factor

OVER_BUDGET = 6
"""The exit code of pytest: another than that of failed tests, which run again."""

BUDGETS = Path(__file__).parents[1] / "budget.toml"


def read_budgets() -> tuple[float, Mapping[str, float]]:
    """Return the budget of a file without an entry, and the entries."""
    read = tomllib.loads(BUDGETS.read_text(encoding="utf-8"))
    return read["default_seconds"], read["files"]


def find_overruns(
    taken: Mapping[str, float],
    default: float,
    budgets: Mapping[str, float],
    factor: float,
) -> list[str]:
    """Return a sentence for each file over its budget, the worst first."""
    allowed = {name: factor * budgets.get(name, default) for name in taken}
    over = [name for name, seconds in taken.items() if seconds > allowed[name]]
    return [
        f"{name} took {taken[name]:.0f} s; its budget is"
        f" {budgets.get(name, default):g} s, here {allowed[name]:g}"
        for name in sorted(over, key=lambda name: -taken[name] / allowed[name])
    ]


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Sort the files that workers run by their budgets, from the largest on."""
    if hasattr(config, "workerinput"):
        default, budgets = read_budgets()
        items.sort(
            key=lambda item: budgets.get(item.nodeid.partition("::")[0], default),
            reverse=True,
        )


class BudgetPlugin:
    """Adds up how long the tests of each file took."""

    def __init__(self) -> None:
        self._taken: dict[str, float] = defaultdict(float)
        self._failed: set[str] = set()
        self._found: list[str] | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.partition("::")[0]
        self._taken[name] += report.duration
        if report.failed:
            self._failed.add(name)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if os.environ.get("CI") and self.find():
            session.exitstatus = OVER_BUDGET

    def pytest_terminal_summary(
        self, terminalreporter: "pytest.TerminalReporter"
    ) -> None:
        for sentence in self.find():
            terminalreporter.write_line(f"OVER BUDGET {sentence}", yellow=True)

    def find(self) -> list[str]:
        """Return the sentences about files over their budget."""
        if self._found is None:
            taken = {
                name: seconds
                for name, seconds in self._taken.items()
                if name not in self._failed
            }
            self._found = find_overruns(taken, *read_budgets(), scale(1))
            if self._found:
                factor = max(scale(1), measure_factor())
                self._found = find_overruns(taken, *read_budgets(), factor)
        return self._found


def pytest_configure(config: pytest.Config) -> None:
    # With pytest-xdist the reports of all workers come to the first process.
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(BudgetPlugin(), "budget")
