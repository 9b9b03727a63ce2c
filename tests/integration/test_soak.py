"""Test that the soak run finds leaks planted in real nodes."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.soak.figures import ALLOWED, Sample, check, find_growth
from tests.project import ROOT

pytestmark = pytest.mark.alone


def soak(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", "--seed", "1", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(320)
def test_nothing_grows_in_a_cluster(tmp_path: Path) -> None:
    """One of the two nodes is killed and drained repeatedly."""
    place = tmp_path / "soak.json"
    done = soak("--nodes", "2", "--minutes", "0.1", "--json", str(place))
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads(place.read_text())
    assert {one["name"] for one in written["checked"]} == set(ALLOWED)
    counts = written["counts"]
    assert counts["acked"] > 0
    assert counts.get("killed", 0) + counts.get("drained", 0) >= len(written["samples"])


@pytest.mark.slow
@pytest.mark.timeout(320)
def test_memory_that_is_left_behind_is_found() -> None:
    done = soak("--nodes", "1", "--minutes", "0.05", "--plant", "memory")
    assert done.returncode == 1, done.stdout + done.stderr
    (found,) = [line for line in done.stdout.splitlines() if "NOT FLAT" in line]
    assert "rss_kib" in found


FLAT = Sample(
    at_seconds=0,
    opened=0,
    **dict.fromkeys(ALLOWED, 100),
)


def make_samples(name: str, *values: int) -> list[Sample]:
    return [dataclasses.replace(FLAT, **{name: value}) for value in values]


@pytest.mark.parametrize("name", ALLOWED)
def test_every_figure_that_grows_is_found(name: str) -> None:
    step = 2 * int(ALLOWED[name][0])
    grown = check(make_samples(name, *range(100, 100 + 9 * step, step)))
    assert [one.name for one in grown if not one.is_flat] == [name]


def test_one_sample_that_is_off_decides_nothing() -> None:
    found = check(make_samples("tasks", *[100] * 5, 900, *[100] * 3))
    assert all(one.is_flat for one in found)


def test_growth_is_by_the_median_of_slopes() -> None:
    assert find_growth([0, 1, 2, 3, 400]) == 4


def test_what_each_connection_may_leave_is_allowed_by_their_number() -> None:
    samples = [
        dataclasses.replace(FLAT, opened=100_000 * number, rss_kib=2_000 * number)
        for number in range(9)
    ]
    assert all(one.is_flat for one in check(samples))


def test_too_few_samples_are_no_verdict() -> None:
    with pytest.raises(ValueError, match="too few"):
        check(make_samples("tasks", 1, 2, 3))
