"""The parts of `serve --workers` that need no process."""

import asyncio
import json
import logging
import os
import re
import shutil
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import generate_latest

from connections.metrics.merging import (
    LEAST,
    SUMMED,
    MergedMetrics,
    describe_families,
    make_metrics,
    overlay,
)
from connections.node.group import Group
from connections.node.health import READINESS, describe_all_health
from connections.pool.parent import PoolHost
from connections.testing.communicators import make_config, make_node
from connections.testing.waiting import scale, wait_until
from connections.views.prometheus import export_families
from connections.views.series import describe_series
from connections.workers.assignment import Assignment, take_assignment
from connections.workers.board import Board, Cell
from connections.workers.channel import Channel
from connections.workers.link import WorkerLink
from connections.workers.parent import Parent

GREATEST = {
    "websocket_error_rate",
    "websocket_event_loop_lag_seconds",
    "websocket_idle_timeout_seconds",
    "websocket_lease_age_seconds",
    "websocket_max_connections",
    "websocket_max_connections_per_client",
    "websocket_max_message_bytes",
    "websocket_memory_per_connection_bytes",
    "websocket_pool_degraded",
    "websocket_presence_degraded",
    # Workers may share rooms, so that a sum would count some twice.
    "websocket_presence_rooms",
    "websocket_send_buffer_max_bytes",
    "websocket_step_interval_seconds",
    "websocket_sweep_parts_overdue",
}
"""The gauges of a node of which the greatest value of all workers is told."""


def family(name: str, kind: str, *samples: tuple[str, dict[str, str], float]) -> Any:
    return [name, "About it.", kind, [list(one) for one in samples]]


def find(families: Any, name: str) -> dict[tuple[str, str], float]:
    """Return the values of a family by sample and labels."""
    (found,) = (one for one in families if one[0] == name)
    return {(sample, str(labels)): value for sample, labels, value in found[3]}


def test_counts_are_summed_and_those_of_ended_workers_are_kept() -> None:
    merged = MergedMetrics()
    one = [
        family("m", "counter", ("m_total", {"a": "x"}, 2), ("m_total", {"a": "y"}, 1)),
        family("h", "histogram", ("h_bucket", {"le": "1"}, 3), ("h_sum", {}, 0.5)),
        family("active_websocket_connections", "gauge", ("active", {}, 4)),
    ]
    other = [family("m", "counter", ("m_total", {"a": "x"}, 5))]
    merged.keep(one)
    merged.keep(one)
    found = merged.merge([other, one])
    assert find(found, "m") == {
        ("m_total", "{'a': 'x'}"): 11,
        ("m_total", "{'a': 'y'}"): 3,
    }
    assert find(found, "h") == {("h_bucket", "{'le': '1'}"): 9, ("h_sum", "{}"): 1.5}
    assert list(find(found, "active_websocket_connections").values()) == [4]


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("active_websocket_connections", (3, 4), 7),
        ("websocket_attached_sessions", (500, 500), 1000),
        ("websocket_presence_members", (2, 3), 5),
        ("process_open_fds", (900, 800), 1700),
        ("process_max_fds", (1024, 1024), 2048),
        ("websocket_event_loop_lag_seconds", (0.1, 0.4), 0.4),
        ("websocket_database_up", (1, 0), 0),
        ("websocket_draining", (1, 0), 0),
        ("websocket_pool_slots", (7, 7), 7),
        ("websocket_max_connections", (1000, 1000), 1000),
    ],
)
def test_a_gauge_is_the_sum_or_the_one_to_look_at(
    name: str, values: tuple[float, float], expected: float
) -> None:
    workers = [[family(name, "gauge", (name, {}, value))] for value in values]
    assert list(find(MergedMetrics().merge(workers), name).values()) == [expected]


async def test_every_gauge_of_a_node_has_its_way_to_be_merged() -> None:
    """A new gauge fails here until somebody has decided on it."""
    gauges = {one.name for one in describe_series(make_node()) if one.type == "gauge"}
    assert gauges - SUMMED - LEAST == GREATEST


def test_a_worker_that_ends_keeps_the_counts_of_its_process() -> None:
    """It tells those of its node last; the others it told when it was asked."""
    asked = [family("project", "counter", ("project_total", {}, 3))]
    asked += [family("m", "counter", ("m_total", {}, 1))]
    final = [family("m", "counter", ("m_total", {}, 2))]
    kept = overlay(asked, final)
    assert list(find(kept, "project").values()) == [3]
    assert list(find(kept, "m").values()) == [2]


async def test_a_single_worker_exports_the_same_as_a_node() -> None:
    families = describe_families(describe_series(make_node()))
    merged = MergedMetrics().merge([families])
    text = export_families(merged, generate_latest).decode()
    assert text == export_families(families, generate_latest).decode()
    assert "websocket_messages_total" in text
    assert describe_families(make_metrics(families)) == families


def test_each_worker_sees_the_least_of_the_others() -> None:
    board = Board.create()
    one, other, third = (Cell(board, number) for number in range(3))
    assert one.find_least() is None
    one.publish(5)
    assert one.find_least() is None
    other.publish(7)
    third.publish(0)
    assert (one.find_least(), other.find_least(), third.find_least()) == (0, 0, 5)
    third.leave()
    assert one.find_least() == 7
    # As a worker, which inherits the descriptor alone.
    assert Cell(Board(board.fd), 9).find_least() == 5


def test_an_assignment_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child of the worker does not take itself for one."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    assert take_assignment() is None
    made = Assignment(listening_fd=3, channel_fd=4, board_fd=5, cell=6, pool="w:1f")
    environment = made.make_environment()
    assert "NOTIFY_SOCKET" not in environment
    (name,) = set(environment) - set(os.environ)
    monkeypatch.setenv(name, environment[name])
    assert take_assignment() == made
    assert take_assignment() is None
    # After SIGHUP the parent may be of an older release, which names no pool.
    older = json.loads(environment[name])
    del older["pool"]
    monkeypatch.setenv(name, json.dumps(older))
    assert take_assignment() == replace(made, pool=f"w:{os.getppid()}")


async def test_messages_pass_both_ways_until_one_end_closes() -> None:
    sockets = socket.socketpair()
    for one in sockets:
        one.setblocking(False)
    first, second = [await Channel.open(one) for one in sockets]
    first.send({"type": "a", "text": "x" * 1_000_000})
    second.send({"type": "b", "text": "two\nlines"})

    async def read_all(channel: Channel) -> list[Any]:
        return [message async for message in channel]

    reading = asyncio.create_task(read_all(second))
    async for message in first:
        assert message == {"type": "b", "text": "two\nlines"}
        break
    first.close()
    (received,) = await reading
    assert len(received["text"]) == 1_000_000
    second.close()
    second.send({"type": "late"})


async def test_a_message_that_the_end_of_its_sender_cut_off_is_dropped() -> None:
    """A parent that is killed while it writes: its workers drain."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        theirs.sendall(b'{"type": "a"}\n{"ty')
    channel = await Channel.open(ours)
    assert [message async for message in channel] == [{"type": "a"}]
    channel.close()


class Workers(Group):
    def __init__(self, count: int, *reports: dict[str, Any]) -> None:
        self._answer = {"count": count, "reports": list(reports)}

    async def ask(self, subject: str) -> Any:
        assert subject == "health"
        return self._answer


class SilentParent(Group):
    async def ask(self, subject: str) -> Any:
        raise TimeoutError


def report(status: str, *reasons: str, count: int = 1) -> dict[str, Any]:
    return {"status": status, "open": count, "reasons": list(reasons)}


@pytest.mark.parametrize(
    ("group", "status", "word", "reasons"),
    [
        (Workers(2, report("ok"), report("ok")), 200, "ok", []),
        (
            Workers(2, report("ok"), report("ok"), report("draining")),
            200,
            "ok",
            [],
        ),
        (Workers(2, report("ok"), report("degraded", "a")), 200, "degraded", ["a"]),
        (Workers(2, report("ok")), 200, "degraded", ["1 of 2 workers do not serve"]),
        (
            Workers(2, report("draining"), report("draining")),
            503,
            "draining",
            ["2 of 2 workers do not serve"],
        ),
        (Workers(2), 503, "unavailable", ["2 of 2 workers do not serve"]),
        (SilentParent(), 200, "ok", []),
    ],
)
async def test_the_health_of_all_workers(
    group: Group, status: int, word: str, reasons: list[str]
) -> None:
    node = make_node()
    found = await describe_all_health(node, READINESS, is_observer=True, group=group)
    assert (found[0], found[1]["status"], found[1]["reasons"]) == (
        status,
        word,
        reasons,
    )
    hidden = await describe_all_health(node, READINESS, is_observer=False, group=group)
    assert hidden == (status, {"status": word})


WORKER = """
import json, os, pathlib, signal, socket, time

def fork_and_die(*_):
    if os.fork():
        os.kill(os.getpid(), signal.SIGKILL)
    while True:
        signal.pause()

signal.signal(signal.SIGUSR1, fork_and_die)
assigned = json.loads(os.environ["ORCHESTRA_WORKER"])
pathlib.Path("pool").write_text(assigned["pool"])
channel = socket.socket(fileno=assigned["channel_fd"])
if not os.path.exists("hangs"):
    channel.sendall(b'{"type": "ready"}\\n')
while b"retire" not in channel.recv(65536):
    pass
if os.path.exists("drains"):
    pathlib.Path("retired").touch()
    while os.path.exists("drains"):
        time.sleep(0.01)
    pathlib.Path("drained").touch()
"""


class Parents:
    """A parent in this process, with workers, by default one, that do nothing."""

    def __init__(self, folder: Path, count: int = 1, drain_seconds: float = 0) -> None:
        self.folder = folder
        self._command = folder / "worker"
        self.mend()
        (folder / "worker.py").write_text(WORKER)
        self.is_ready = asyncio.Event()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.parent = Parent(
            ["./worker"],
            folder=str(folder),
            count=count,
            listening=self.listening,
            pool=PoolHost(max_total=1),
            drain_seconds=drain_seconds,
            on_ready=self.is_ready.set,
        )
        self.running = asyncio.create_task(self.parent.run())

    async def stop(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await self.running
        self.listening.close()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().remove_signal_handler(number)

    def mend(self) -> None:
        """Let workers start, from their folder."""
        self._command.write_text(f"#!/bin/sh\nexec {sys.executable} worker.py\n")
        self._command.chmod(0o755)

    def break_down(self) -> None:
        """Let the start of the next workers fail."""
        self._command.chmod(0o644)

    def hang(self) -> None:
        """Let the next workers never be ready."""
        (self.folder / "hangs").touch()

    async def find(self) -> int:
        """Return the process of the only worker, once there is one."""
        return int(await wait_until(self._find))

    def _find(self) -> int | None:
        found = self.find_all()
        return found[0] if len(found) == 1 else None

    def find_all(self) -> list[int]:
        """Return the processes of the workers that run."""
        children = Path(f"/proc/self/task/{threading.main_thread().native_id}/children")
        return [
            int(one)
            for one in children.read_text().split()
            if b"worker.py" in read_command(one)
        ]


def read_command(pid: str) -> bytes:
    """Return the command of a process; an empty text if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


async def freeze(pid: int) -> None:
    """Stop a process, and wait until it is: else SIGTERM would be faster."""
    os.kill(pid, signal.SIGSTOP)
    await wait_until(lambda: ") T " in Path(f"/proc/{pid}/stat").read_text())


@pytest.fixture
async def parents(tmp_path: Path) -> AsyncIterator[Parents]:
    found = Parents(tmp_path)
    await asyncio.wait_for(found.is_ready.wait(), scale(30))
    yield found
    await found.stop()


@pytest.fixture
async def starting(tmp_path: Path) -> AsyncIterator[Parents]:
    """A parent whose two workers are never ready."""
    found = Parents(tmp_path, 2)
    found.hang()
    yield found
    await found.stop()


async def test_a_worker_that_cannot_be_started_is_tried_again(
    parents: Parents, caplog: pytest.LogCaptureFixture
) -> None:
    """No process is left, or no memory, for a moment."""
    killed = await parents.find()
    parents.break_down()
    os.kill(killed, signal.SIGKILL)
    await wait_until(lambda: "cannot be started" in caplog.text)
    parents.mend()
    assert await parents.find() != killed


async def test_a_reload_that_cannot_start_a_worker_leaves_the_next_one_possible(
    parents: Parents, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = await parents.find()
    parents.break_down()
    os.kill(os.getpid(), signal.SIGHUP)
    await wait_until(lambda: "go on with the old code" in caplog.text)
    parents.mend()
    os.kill(os.getpid(), signal.SIGHUP)
    await wait_until(lambda: "All workers are replaced" in caplog.text)
    assert await parents.find() != before


async def test_workers_have_a_pool_of_the_name_of_their_parent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In containers all parents are process 1."""
    caplog.set_level(logging.INFO)
    names = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        parents = Parents(folder)
        await asyncio.wait_for(parents.is_ready.wait(), scale(30))
        names.append((folder / "pool").read_text())
        assert re.fullmatch("w:[0-9a-f]{8}", names[-1])
        (folder / "pool").unlink()
        caplog.clear()
        os.kill(os.getpid(), signal.SIGHUP)
        await wait_until(lambda: "All workers are replaced" in caplog.text)
        assert (folder / "pool").read_text() == names[-1]
        await parents.stop()
    assert names[0] != names[1]


async def test_a_reload_starts_the_release_to_which_the_folder_points(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Deploys by a link to the current release."""
    caplog.set_level(logging.INFO)
    first, second, current = (tmp_path / name for name in ("one", "two", "current"))
    first.mkdir()
    current.symlink_to(first)
    parents = Parents(current)
    await asyncio.wait_for(parents.is_ready.wait(), scale(30))
    assert os.readlink(f"/proc/{await parents.find()}/cwd") == str(first)
    shutil.copytree(first, second)
    current.unlink()
    current.symlink_to(second)
    os.kill(os.getpid(), signal.SIGHUP)
    await wait_until(lambda: "All workers are replaced" in caplog.text)
    assert os.readlink(f"/proc/{await parents.find()}/cwd") == str(second)
    await parents.stop()


async def test_a_new_worker_that_is_never_ready_ends_the_reload(
    parents: Parents, caplog: pytest.LogCaptureFixture
) -> None:
    before = await parents.find()
    parents.hang()
    parents.parent.ready_seconds = 0.1
    os.kill(os.getpid(), signal.SIGHUP)
    await wait_until(lambda: "ended by SIGKILL; the others go on" in caplog.text)
    assert await parents.find() == before


async def test_a_worker_that_leaves_a_child_behind_is_restarted(
    parents: Parents, caplog: pytest.LogCaptureFixture
) -> None:
    """The child, as of a pool of processes, holds the worker's end of the channel."""
    killed = await parents.find()
    os.kill(killed, signal.SIGUSR1)
    try:
        await wait_until(lambda: "ended by SIGKILL" in caplog.text)
        assert await parents.find() != killed
    finally:
        os.killpg(killed, signal.SIGKILL)


async def test_a_reload_kills_a_worker_that_does_not_drain(
    parents: Parents, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    parents.parent.margin_seconds = 0.1
    stuck = await parents.find()
    await freeze(stuck)
    os.kill(os.getpid(), signal.SIGHUP)
    await wait_until(lambda: "All workers are replaced" in caplog.text)
    assert "has not drained after 0.1 s and is killed" in caplog.text
    assert await parents.find() != stuck


async def test_a_worker_that_tells_no_time_of_its_drain_has_that_of_the_parent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One of a release before 0.2, to which the link was set back."""
    caplog.set_level(logging.INFO)
    parents = Parents(tmp_path, drain_seconds=scale(60))
    await asyncio.wait_for(parents.is_ready.wait(), scale(30))
    parents.parent.margin_seconds = 0.1
    (tmp_path / "drains").touch()
    os.kill(os.getpid(), signal.SIGHUP)
    await wait_until((tmp_path / "retired").exists)
    await asyncio.sleep(0.5)
    (tmp_path / "drains").unlink()
    await wait_until(lambda: "All workers are replaced" in caplog.text)
    assert "is killed" not in caplog.text
    assert (tmp_path / "drained").exists()
    await parents.stop()


async def test_a_stop_kills_a_worker_that_does_not_drain(
    parents: Parents, caplog: pytest.LogCaptureFixture
) -> None:
    parents.parent.margin_seconds = 0.1
    await freeze(await parents.find())
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(parents.running, scale(30)) == 1
    assert "has not drained after 0.1 s and is killed" in caplog.text


async def test_a_stop_during_a_reload_waits_for_the_worker_that_drains(
    parents: Parents,
) -> None:
    drains = parents.folder / "drains"
    drains.touch()
    old = await parents.find()
    os.kill(os.getpid(), signal.SIGHUP)
    await wait_until((parents.folder / "retired").exists)
    os.kill(os.getpid(), signal.SIGTERM)
    await wait_until(lambda: parents.find_all() == [old])
    drains.unlink()
    assert await asyncio.wait_for(parents.running, scale(30)) == 0
    assert (parents.folder / "drained").exists()


async def test_a_stop_during_the_start_is_no_failure(starting: Parents) -> None:
    await wait_until(starting.find_all)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(starting.running, scale(30)) == 0


async def test_a_stop_before_the_workers_start_does_not_wait_for_them(
    starting: Parents,
) -> None:
    await asyncio.sleep(0)  # The parent takes signals, and has no worker yet.
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(starting.running, scale(30)) == 0


async def test_a_stop_does_not_wait_until_a_stuck_worker_is_ready(
    starting: Parents,
) -> None:
    starting.parent.margin_seconds = 0.1
    await wait_until(lambda: len(starting.find_all()) == 2)
    await freeze(starting.find_all()[0])
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(starting.running, scale(30)) == 1


async def test_a_worker_that_fails_before_a_stop_is_a_failure(
    starting: Parents,
) -> None:
    await wait_until(lambda: len(starting.find_all()) == 2)
    killed = starting.find_all()[0]
    os.kill(killed, signal.SIGKILL)
    await wait_until(lambda: killed not in starting.find_all())
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(starting.running, scale(30)) == 1


async def test_a_report_that_fails_leaves_a_worker_its_parent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A collector of the project raises."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    def fail(content: Any = None) -> None:
        raise RuntimeError("a defect of the project")

    link = WorkerLink(theirs.detach(), {"metrics": fail, "health": lambda: "fine"})
    link.listen("taken", fail)
    server: Any = SimpleNamespace(config=make_config(drain={"grace_seconds": 7}))
    running = asyncio.create_task(link.run(server))
    parent = await Channel.open(ours)
    messages = aiter(parent)
    config = server.config
    seconds = config.handshake.timeout_seconds + config.drain.grace_seconds
    assert await anext(messages) == {"type": "hello", "drain_seconds": seconds}
    assert (await anext(messages))["type"] == "ready"
    parent.send({"type": "ask", "id": 1, "subject": "metrics"})
    parent.send({"type": "tell", "subject": "taken", "content": {}})
    parent.send({"type": "ask", "id": 2, "subject": "health"})
    answer = {"type": "answer", "id": 2, "subject": "health", "content": "fine"}
    assert await anext(messages) == answer
    assert "a defect of the project" in caplog.text
    loop, has_ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, has_ended.set)
    parent.close()
    await running
    await asyncio.wait_for(has_ended.wait(), scale(10))
    loop.remove_signal_handler(signal.SIGTERM)
