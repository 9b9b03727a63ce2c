"""
Fail a run in which a test file took longer than its budget in tests/budget.toml.

A budget is in seconds on the reference machine (two quiet cores), for all tests of
a file together. It is held in CI, where the file runs on a machine of its own;
elsewhere the run prints the files that are over and passes. Deadlines scale with
the machine, and so do budgets. Workers of pytest-xdist run the files with the largest
budgets first.
"""

import os
import tomllib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

from connections.testing.waiting import scale

OVER_BUDGET = 6
"""The exit code of pytest: another than that of failed tests, which run again."""

BUDGETS = Path(__file__).parents[1] / "budget.toml"


def read_budgets() -> tuple[float, Mapping[str, float]]:
    """Return the budget of a file without an entry, and the entries."""
    read = tomllib.loads(BUDGETS.read_text(encoding="utf-8"))
    return read["default_seconds"], read["files"]


def find_overruns(
    taken: Mapping[str, float], default: float, budgets: Mapping[str, float]
) -> list[str]:
    """Return a sentence for each file over its budget, the worst first."""
    over = {
        name: seconds / scale(budgets.get(name, default))
        for name, seconds in taken.items()
    }
    return [
        f"{name} took {taken[name]:.0f} s; its budget is"
        f" {budgets.get(name, default):g} s, here {scale(budgets.get(name, default)):g}"
        for name, part in sorted(over.items(), key=lambda one: -one[1])
        if part > 1
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
        self.taken: dict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.taken[report.nodeid.partition("::")[0]] += report.duration

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
        return find_overruns(self.taken, *read_budgets())


def pytest_configure(config: pytest.Config) -> None:
    # With pytest-xdist the reports of all workers come to the first process.
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(BudgetPlugin(), "budget")
