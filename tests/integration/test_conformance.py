"""Run the Autobahn test suite, and test its report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.conformance.__main__ import main
from benchmarks.conformance.suite import SuiteMissing, find_python
from benchmarks.conformance.verdicts import Case, read_cases
from tests.project import ROOT


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_case_of_the_suite_fails(tmp_path: Path) -> None:
    """
    `serve` does all that RFC 6455 and RFC 7692 ask for.

    Without a CPython 2.7 it is not run, and the end of the tests' output says so.
    """
    try:
        find_python()
    except SuiteMissing as exc:
        pytest.skip(f"NOT RUN: {exc}")
    place = tmp_path / "cases.json"
    arguments = ("--subset", "ci", "--json", str(place))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.conformance", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 2 and not os.environ.get("CI"):
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(place.read_text())
    assert sum(found["counts"].values()) == len(found["cases"]) > 300
    assert set(found["counts"]) <= {"OK", "NON-STRICT", "INFORMATIONAL"}


@pytest.fixture
def no_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder as the only place to look for CPython 2.7."""
    monkeypatch.delenv("PYTHON27", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("no_python")
def test_without_a_python_it_says_how_to_get_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 2
    output = capsys.readouterr().err
    assert output.startswith("NOT RUN: ")
    assert "pyenv install 2.7.18" in output


def plant_python(path: Path, answer: str, code: int = 0) -> Path:
    """Write a program that prints a version as Python does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{answer}'\nexit {code}\n")
    path.chmod(0o755)
    return path


def test_a_shim_without_a_python_behind_it_is_passed_over(no_python: Path) -> None:
    """pyenv leaves shims on PATH for versions that are not active."""
    plant_python(no_python / "python2.7", "2.7 1114111", code=127)
    plant_python(no_python / "python2", "2.6 1114111")
    behind = plant_python(
        no_python / "versions" / "2.7.18" / "bin" / "python2.7", "2.7 65535"
    )
    found = find_python()
    assert (found.path, found.abi) == (str(behind), "cp27m")


def test_another_python_is_no_python_for_it() -> None:
    with pytest.raises(SuiteMissing, match="is not a CPython"):
        find_python(sys.executable)


@pytest.mark.parametrize(
    ("case", "has_failed"),
    [
        (Case("1.1.1", "OK", "OK"), False),
        (Case("3.2", "NON-STRICT", "OK"), False),
        (Case("7.13.1", "INFORMATIONAL", "INFORMATIONAL"), False),
        (Case("12.1.1", "UNIMPLEMENTED", "OK"), True),
        (Case("6.4.1", "UNIMPLEMENTED", "OK"), True),
        (Case("1.1.1", "FAILED", "OK"), True),
        (Case("1.1.1", "OK", "FAILED"), True),
        (Case("1.1.1", "OK", "WRONG CODE"), True),
    ],
)
def test_what_counts_as_failed(case: Case, has_failed: bool) -> None:
    assert case.has_failed is has_failed


def test_the_cases_of_a_report_come_in_their_order(tmp_path: Path) -> None:
    cases = {
        number: {"behavior": "OK", "behaviorClose": "OK"}
        for number in ("10.1.1", "9.1.10", "9.1.9")
    }
    (tmp_path / "index.json").write_text(json.dumps({"serve": cases}))
    found = [case.number for case in read_cases(tmp_path, "serve")]
    assert found == ["9.1.9", "9.1.10", "10.1.1"]
