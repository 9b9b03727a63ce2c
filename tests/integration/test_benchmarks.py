"""The benchmarks run and say what they found; how fast it was is not looked at."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.contenders import CONTENDERS
from benchmarks.measures import CONTENDERS_OF, MEASURES, QUICK_CONTENDERS
from benchmarks.targets import TARGETS
from tests.project import ROOT

pytestmark = pytest.mark.slow


def run_benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )


def test_every_measure_gives_figures_for_each_contender(tmp_path: Path) -> None:
    place = tmp_path / "figures.json"
    done = run_benchmarks("--quick", "--json", str(place))
    assert done.returncode == 0, done.stderr
    written = json.loads(place.read_text())
    assert written["machine"]["cores"] >= 1
    assert set(written["rounds"]) == set(MEASURES)
    for measure, found in written["rounds"].items():
        assert set(found) == set(CONTENDERS_OF[measure]) & set(QUICK_CONTENDERS)
        for rounds in found.values():
            assert rounds
            assert all(value >= 0 for values in rounds for value in values.values())
    echoes = written["rounds"]["echo"]["orchestra-serve"][0]
    assert echoes["echoes_per_second"] > 0
    assert "longest block of the loop" in done.stdout


def test_what_is_unknown_is_named() -> None:
    done = run_benchmarks("--only", "speed")
    assert done.returncode != 0
    assert "no measure 'speed'; there are echo" in done.stderr


def test_each_target_is_of_something_that_is_measured() -> None:
    for target in TARGETS:
        names = {target.contender, target.against} - {None}
        assert names <= set(CONTENDERS_OF[target.measure]) <= set(CONTENDERS)
