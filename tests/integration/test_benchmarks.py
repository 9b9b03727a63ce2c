"""Test that the benchmarks run and report; their figures are not checked."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.contenders import CONTENDERS
from benchmarks.layers import LAYERS, find_layer
from benchmarks.measures import CONTENDERS_OF, MEASURES, QUICK_CONTENDERS
from benchmarks.targets import TARGETS
from connections.testing.waiting import scale
from tests.integration.redis_process import RedisProcess
from tests.integration.services import PostgresProcess
from tests.project import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.alone]


def run_benchmarks(
    *arguments: str, module: str = ""
) -> subprocess.CompletedProcess[str]:
    name = f"benchmarks.{module}" if module else "benchmarks"
    return subprocess.run(
        [sys.executable, "-m", name, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=scale(85),
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


def test_a_messages_time_is_shared_out_among_layers(tmp_path: Path) -> None:
    place = tmp_path / "figures.json"
    arguments = ("orchestra-serve", "--seconds", "0.5", "--json", str(place))
    done = run_benchmarks(*arguments, module="layers")
    assert done.returncode == 0, done.stderr
    cells = [line.split("|")[1:-1] for line in done.stdout.splitlines() if "|" in line]
    shares = {name.strip(): value.strip() for name, value in cells}
    parts = [float(shares[name]) for name in LAYERS]
    assert sum(parts) == pytest.approx(float(shares["total"]), abs=0.5)
    assert float(shares["frames, queue, buffers (server/)"]) > 0
    written = json.loads(place.read_text())["us_per_message"]["orchestra-serve"]
    assert {name: f"{us:.1f}" for name, us in written.items()}.items() <= shares.items()


def test_the_cost_of_counting_is_written(tmp_path: Path) -> None:
    place = tmp_path / "figures.json"
    done = run_benchmarks("--json", str(place), module="counting")
    # It is 1 where the machine was too busy for the allowed share.
    assert done.returncode in (0, 1), done.stderr
    figures = json.loads(place.read_text())["figures"]
    assert figures.pop("trace_calls_while_off") == 0
    assert len(figures) == 5
    assert all(figures.values())


def test_an_attack_is_made_on_stock_daphne_and_on_ours(tmp_path: Path) -> None:
    place = tmp_path / "figures.json"
    arguments = ("--only", "no_utf8", "--json", str(place))
    done = run_benchmarks(*arguments, module="abuse")
    assert done.returncode == 0, done.stderr
    bare, ours = json.loads(place.read_text())["attacks"]["no_utf8"].values()
    assert {answer.rpartition(": ")[2] for answer in bare["answers"]} == {"reset"}
    assert "a lonely 0xff: 1007 protocol_error" in ours["answers"]
    assert bare["canary_round_trips"] and ours["canary_round_trips"]
    assert "| no_utf8 |" in done.stdout
    assert "there are mute" in run_benchmarks("--only", "x", module="abuse").stderr


@pytest.mark.parametrize(
    ("module", "layer"),
    [
        ("connections.server.transport", "system calls, event loop"),
        ("connections.server.websocket.frames", "frames, queue, buffers (server/)"),
        ("connections.connection.runner", "limits, error boundary, consumer"),
        ("asyncio", "system calls, event loop"),
        ("asynciox", "other"),
    ],
)
def test_code_belongs_to_a_layer(module: str, layer: str) -> None:
    assert find_layer(module) == layer


def test_sessions_are_measured() -> None:
    """The generator fails the run if an offset is missing or repeated."""
    arguments = ("--only", "sqlite", "--seconds", "1")
    done = run_benchmarks(*arguments, module="sessions")
    assert done.returncode == 0, done.stderr
    for name in ("committed_per_second", "cpu_us_event_loop", "resume_p99_ms"):
        assert f"| {name} " in done.stdout


def test_answers_are_measured() -> None:
    """The generator fails the run if a piece is missing."""
    arguments = ("--only", "sqlite", "--seconds", "1", "--answers")
    done = run_benchmarks(*arguments, module="sessions")
    assert done.returncode == 0, done.stderr
    for name in ("text_here_p50_ms", "parts_elsewhere_cpu_us_producer"):
        assert f"| {name} " in done.stdout


def test_http_is_measured() -> None:
    done = run_benchmarks("--quick", module="http")
    assert done.returncode == 0, done.stderr
    assert "| 12 uploads of 30 MB: statuses" in done.stdout
    assert "12 x 200" in done.stdout


def test_stalls_are_measured(tmp_path: Path) -> None:
    """Each measure ends, and the last of the close requests was applied."""
    place = tmp_path / "figures.json"
    done = run_benchmarks("--quick", "--json", str(place), module="stalls")
    assert done.returncode == 0, done.stderr
    figures = json.loads(place.read_text())["figures"]
    assert {f"| {name} " for name in figures} <= {
        line[: line.index(" ", 2) + 1] for line in done.stdout.splitlines()
    }
    assert figures["users_posted"] == 0
    assert figures["answers_begun"] > 0
    for name in ("requests_block", "users_block", "leaks_block"):
        assert figures[f"{name}_ms"] >= figures[f"{name}_cpu_ms"] >= 0
    if shutil.which("redis-server"):
        assert {"lowered_ms", "dead_ms", "settle_ms"} <= set(figures)


def test_what_is_unknown_is_named() -> None:
    done = run_benchmarks("--only", "speed")
    assert done.returncode != 0
    assert "no measure 'speed'; there are echo" in done.stderr


def test_each_target_is_of_something_that_is_measured() -> None:
    for target in TARGETS:
        names = {target.contender, target.against} - {None}
        assert names <= set(CONTENDERS_OF[target.measure]) <= set(CONTENDERS)


def test_both_stores_of_nodes_are_compared(
    migrated_postgres: PostgresProcess, redis_process: RedisProcess, tmp_path: Path
) -> None:
    database = migrated_postgres.create_database("compared", template="migrated")
    place = tmp_path / "figures.json"
    done = run_benchmarks(
        *("--postgres", database, "--redis", redis_process.url),
        *("--connects", "40", "--messages", "60", "--json", str(place)),
        module="shared_stores",
    )
    assert done.returncode == 0, done.stderr
    written = json.loads(place.read_text())
    assert set(written) == {"postgres", "redis"}
    for rows in written.values():
        assert len(rows) == 5
        assert all(row["per_second"] > 0 for row in rows)
        assert all(row["server_cpu_us"] is not None for row in rows)
