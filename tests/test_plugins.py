"""The plugins that select tests, hold budgets and run tests again in CI."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.plugins.budget import BudgetPlugin, find_overruns, read_budgets
from tests.plugins.selection import (
    LIVE_FOLDERS,
    PROMISES,
    TESTS,
    is_live,
    needs_browser,
)
from tests.plugins.unstable import Failure, run_again

ROOT = TESTS.parent
LONGEST_FIRST = ("--dist", "loadfile", "--no-loadscope-reorder")


def run_pytest(
    folder: Path, plugin: str, *arguments: str
) -> "subprocess.CompletedProcess[str]":
    """Run the tests of a folder with one plugin of ours and none of the project's."""
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        *("-c", "/dev/null", "-p", "no:django", "-p", "no:randomly"),
        *("--rootdir", str(folder), "-p", plugin, *arguments),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True
    )


def test_a_file_over_its_budget_is_named() -> None:
    taken = {"tests/a.py": 39.0, "tests/b.py": 41.0, "tests/c.py": 9.0}
    (sentence,) = find_overruns(taken, 20, {"tests/c.py": 5}, 2)
    assert sentence == "tests/b.py took 41 s; its budget is 20 s, here 40"


def test_a_file_with_a_failed_test_is_held_to_no_budget() -> None:
    """The failure is shown, and CI may run it again: a deadline took the time."""
    plugin = BudgetPlugin()
    report = pytest.TestReport(
        "tests/slow.py::test_it", ("", 0, ""), {}, "passed", None, "call", duration=1e4
    )
    plugin.pytest_runtest_logreport(report)
    report.nodeid, report.outcome = "tests/hung.py::test_it", "failed"
    plugin.pytest_runtest_logreport(report)
    assert [sentence.split()[0] for sentence in plugin.find()] == ["tests/slow.py"]


def test_timeouts_scale_with_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of marks and the default, and not one of the command line."""
    monkeypatch.setenv("TEST_PATIENCE", "2.5")
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def find(request):\n"
        "    mark = request.node.get_closest_marker('timeout')\n"
        "    return mark and mark.args[0]\n"
        "def test_default(request):\n"
        "    expected = None if request.config.getoption('timeout') else 25\n"
        "    assert find(request) == expected\n"
        "@pytest.mark.timeout(4)\n"
        "def test_marked(request):\n"
        "    assert find(request) == 10\n"
    )
    plugin = "tests.plugins.calibration"
    for option in ((), ("--timeout", "7")):
        done = run_pytest(tmp_path, plugin, "-o", "timeout=10", *option)
        assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_every_budget_is_of_a_file_that_exists() -> None:
    _, budgets = read_budgets()
    assert [name for name in budgets if not (ROOT / name).is_file()] == []


def test_the_budgets_add_up_to_what_all_tests_may_take() -> None:
    """Two files run at once, so 52 minutes by the clock are 104 of tests."""
    _, budgets = read_budgets()
    assert sum(budgets.values()) <= 2 * 52 * 60


@pytest.mark.skipif(find_spec("xdist") is None, reason="NOT RUN: no pytest-xdist")
def test_workers_run_the_files_with_the_largest_budgets_first(tmp_path: Path) -> None:
    names = (
        "tests/abuse/test_corpus.py",
        "tests/a.py",
        "tests/adoption/test_adoption.py",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("def test_it():\n    pass\n")
    done = run_pytest(
        tmp_path, "tests.plugins.budget", "-vv", "-n1", *LONGEST_FIRST, *names
    )
    ran = re.findall(r"PASSED (\S+)::", done.stdout)
    assert ran == [names[2], names[0], names[1]], done.stdout + done.stderr


def test_live_folders_exist_and_others_are_within_the_process() -> None:
    assert is_live(TESTS / "integration" / "test_drain.py")
    assert not is_live(TESTS / "connections" / "test_drain.py")
    assert all((TESTS / name).is_dir() for name in LIVE_FOLDERS)


def test_a_test_that_reaches_a_browser_by_another_module_needs_it() -> None:
    """It is left out where Playwright is missing, as in the cells."""
    tests = TESTS / "integration"
    assert needs_browser(tests / "test_demo_browser.py")
    assert needs_browser(tests / "test_shipped.py")
    assert not needs_browser(tests / "test_drain.py")


def test_a_failure_within_the_process_is_not_run_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "tests/connections/test_hub.py::test_x"
    assert run_again([Failure(name, "AssertionError", is_live=False)]) == 1
    assert "within one process" in capsys.readouterr().out


def test_three_unstable_tests_are_a_failure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The last lines of the log say what failed, and why."""
    errors = "\n".join(f"E   line {number}" for number in range(20))
    place = "tests/test_x.py:2: AssertionError"
    report = f"def test_x():\n>   assert False\n{errors}\n\n{place}"
    names = (f"tests/integration/test_drain.py::test_{x}" for x in "abc")
    failed = [Failure(name, report, is_live=True) for name in names]
    assert run_again(failed) == 1
    first, *told = capsys.readouterr().out.splitlines()
    assert "at most 2" in first
    of_each = len(told) // 3
    assert told[:of_each] == [
        "FAILED tests/integration/test_drain.py::test_a",
        *(f"E   line {number}" for number in range(5)),
        "...",
        *(f"E   line {number}" for number in range(11, 20)),
        place,
    ]


@pytest.mark.parametrize(
    ("status", "expected", "shown"),
    [(0, 0, "UNSTABLE"), (1, 1, "failed again")],
    ids=["passes", "fails"],
)
def test_a_live_test_that_failed_is_run_once_more(
    capsys: pytest.CaptureFixture[str], status: int, expected: int, shown: str
) -> None:
    """If it passes then, both of its logs are printed."""
    name = "tests/integration/test_drain.py::test_x"
    failure, ran = Failure(name, "the first failure", is_live=True), []

    def run(failed: Failure) -> "subprocess.CompletedProcess[str]":
        ran.append(failed)
        said = "passed alone" if status == 0 else "failed again"
        return subprocess.CompletedProcess([], status, said, "")

    assert run_again([failure], run) == expected
    assert ran == [failure]
    printed = capsys.readouterr().out
    assert shown in printed
    if status == 0:
        assert "the first failure" in printed
        assert "passed alone" in printed


def test_nothing_failed_is_nothing_to_run_again() -> None:
    assert run_again([]) == 0


SERVICE = """
import pytest

@pytest.fixture(scope="session")
def shared_redis():
    return "redis"

@pytest.fixture
def store(request):
    return request.getfixturevalue("shared_redis")

def test_wrong():
    assert 1 == 2

@pytest.mark.parametrize("name", ["first", "second"])
def test_with_a_service(store, name):
    assert store == name
"""


def test_the_failures_of_a_run_are_written(tmp_path: Path) -> None:
    """By the plugin, in a run of its own; xdist's workers report to one place."""
    (tmp_path / "test_it.py").write_text(SERVICE)
    written = tmp_path / "failed.json"
    plugin = "tests.plugins.unstable"
    done = run_pytest(
        tmp_path, plugin, "-n1", "--failures-to", str(written), "test_it.py"
    )
    assert done.returncode == 1, done.stdout + done.stderr
    wrong, *served = [Failure(**one) for one in json.loads(written.read_text())]
    assert wrong.nodeid == "test_it.py::test_wrong"
    assert "assert 1 == 2" in wrong.report
    assert not wrong.is_live
    assert wrong.python == sys.executable
    assert [one.nodeid for one in served] == [
        f"test_it.py::test_with_a_service[{name}]" for name in ("first", "second")
    ]
    assert all(one.is_live for one in served)


@pytest.mark.source
def test_every_promise_is_a_test_that_script_test_runs() -> None:
    """A renamed test, or one with another id, would be left out."""
    folders = [f"tests/{name}" for name in LIVE_FOLDERS]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "--collect-only"),
            *("-p", "no:cacheprovider", "-m", "promise", *folders),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    found = re.findall(r"^tests/\S+::(\w+(?:\[.*\])?)$", done.stdout, re.MULTILINE)
    assert sorted(PROMISES - set(found)) == [], done.stdout + done.stderr
