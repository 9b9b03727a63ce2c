"""Test that the soaks find leaks and broken promises."""

import dataclasses
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.soak.figures import ALLOWED, Sample, check, find_growth
from benchmarks.soak.records import Records, Row
from connections.testing.waiting import scale
from tests.project import ROOT

pytestmark = pytest.mark.alone


def soak(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", "--seed", "1", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=scale(150),
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(160)
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
@pytest.mark.timeout(160)
def test_memory_that_is_left_behind_is_found() -> None:
    done = soak("--nodes", "1", "--minutes", "0.05", "--plant", "memory")
    assert done.returncode == 1, done.stdout + done.stderr
    (found,) = [line for line in done.stdout.splitlines() if "NOT FLAT" in line]
    assert "rss_kib" in found


@pytest.mark.slow
@pytest.mark.timeout(160)
def test_every_promise_of_both_kinds_of_clients_agrees_with_the_log(
    tmp_path: Path,
) -> None:
    """Nodes are killed, ways are cut, pages are reloaded and tokens expire."""
    place = tmp_path / "soak.json"
    options = ("--sessions", "--clients", "24", "--minutes", "0.35", "--json")
    done = soak(*options, str(place))
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(place.read_text())["counts"]
    assert counts["sent"] == counts["acked"] + counts.get("failed", 0)
    assert counts["over"] == 24
    assert counts["renewed"] > 0


SENT = {"client": "py0", "number": 1}
ROW = Row(session="s", offset=1, sender="client", state="done", data=SENT)
ANSWER = Row(session="s", offset=2, sender="server", state="done", data={"text": "ab"})
HELD = [[1, "done", SENT], [2, "done", {"text": "ab"}]]


def compare(
    rows: list[Row], *, ends: tuple[dict[str, object], ...], held: object = HELD
) -> list[str]:
    """Compare a log with one message that was settled in some ways."""
    records = Records("ab")
    over: dict[str, object] = {
        "event": "over",
        "entries": held,
        "pending": 0,
        "stored": 0,
    }
    sent: dict[str, object] = {"event": "sent"}
    for event in (sent, *ends, over):
        records.take({**SENT, "session": "s", **event})
    return records.compare(rows)


ACKED: dict[str, object] = {"event": "acked", "offset": 1}
CLOSED: dict[str, object] = {"event": "failed", "code": "closed"}


def test_a_log_that_keeps_its_promises_has_no_problem() -> None:
    assert compare([ROW, ANSWER], ends=(ACKED,)) == []
    assert compare([ROW, ANSWER], ends=(CLOSED,)) == []
    assert compare([], ends=(CLOSED,), held=[]) == []


@pytest.mark.parametrize(
    ("rows", "ends", "problem"),
    [
        ([ROW, ANSWER], (), "settled 0 times"),
        ([ROW, ANSWER], (ACKED, ACKED), "settled 2 times"),
        ([ROW, ANSWER], (ACKED, CLOSED), "settled 2 times"),
        ([], (ACKED,), "acked as"),
        ([ROW, ANSWER], ({**ACKED, "offset": 3},), "acked as"),
        ([ROW, ANSWER], ({"event": "failed", "code": "storage_full"},), "failed as"),
        ([], ({**CLOSED, "isStored": True},), "never sent"),
        (
            [ROW, ANSWER, dataclasses.replace(ROW, offset=3)],
            (ACKED,),
            "is in the log at",
        ),
        ([ROW], (ACKED,), "has no answer"),
        ([ROW, dataclasses.replace(ANSWER, offset=3)], (ACKED,), "has holes"),
        ([ROW, dataclasses.replace(ANSWER, data={"text": "a"})], (ACKED,), "is done"),
        ([ROW, dataclasses.replace(ANSWER, state="streaming")], (ACKED,), "streaming"),
        ([ROW, dataclasses.replace(ANSWER, state="cancelled")], (ACKED,), "differs"),
    ],
)
def test_every_broken_promise_is_found(
    rows: list[Row], ends: tuple[dict[str, object], ...], problem: str
) -> None:
    assert any(problem in one for one in compare(rows, ends=ends))


FLAT = Sample(
    at_seconds=0,
    opened=0,
    open=7,
    **dict.fromkeys(ALLOWED, 100),
)


def make_samples(name: str, *values: int) -> list[Sample]:
    return [dataclasses.replace(FLAT, **{name: value}) for value in values]


@pytest.mark.parametrize("name", ALLOWED)
def test_every_figure_that_grows_is_found(name: str) -> None:
    step = 2 * int(ALLOWED[name][0])
    grown = check(make_samples(name, *range(100, 100 + 9 * step, step)))
    assert [one.name for one in grown if not one.is_flat] == [name]


def test_clients_that_move_to_the_steady_node_are_no_growth() -> None:
    """They bring two tasks each; what grows beside them is found."""
    samples = [
        dataclasses.replace(FLAT, open=count, tasks=100 + 2 * count)
        for count in range(6, 15)
    ]
    assert all(one.is_flat for one in check(samples))
    leaking = [
        dataclasses.replace(one, tasks=one.tasks + 4 * index)
        for index, one in enumerate(samples)
    ]
    assert [one.name for one in check(leaking) if not one.is_flat] == ["tasks"]


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


def test_pages_print_all_that_they_have_to_say() -> None:
    """The pipe is smaller than their last lines together."""
    options = {
        "urls": ["ws://127.0.0.1:9/"],
        "clients": 200,
        **{"issuer": "i", "audience": "a", "secret": "s", "life": [25, 30]},
        **{"answer": {}, "pause": [0, 0], "patience": 0},
    }
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with (
        open(reading) as output,
        subprocess.Popen(
            [
                *("node", "--experimental-websocket", "--no-warnings"),
                *(ROOT / "benchmarks/soak/pages.mjs", json.dumps(options)),
            ],
            stdin=subprocess.PIPE,
            stdout=writing,
        ) as pages,
    ):
        os.close(writing)
        assert pages.stdin is not None
        with pages.stdin as stdin:
            stdin.write(b"over\n")
        events = [json.loads(line)["event"] for line in output]
    assert events.count("over") == options["clients"]
