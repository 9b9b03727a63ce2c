"""The parts of `serve --workers` that need no process."""

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from connections.metrics.merging import (
    MergedMetrics,
    describe_families,
    make_metrics,
)
from connections.node.group import Group
from connections.node.health import READINESS, describe_all_health
from connections.pool.parent import PoolHost
from connections.testing.communicators import make_node
from connections.testing.waiting import scale, wait_until
from connections.views.prometheus import export_families
from connections.views.series import describe_series
from connections.workers.assignment import Assignment, take_assignment
from connections.workers.board import Board, Cell
from connections.workers.channel import Channel
from connections.workers.link import WorkerLink
from connections.workers.parent import Parent


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
    made = Assignment(listening_fd=3, channel_fd=4, board_fd=5, cell=6)
    environment = made.make_environment()
    assert "NOTIFY_SOCKET" not in environment
    (name,) = set(environment) - set(os.environ)
    monkeypatch.setenv(name, environment[name])
    assert take_assignment() == made
    assert take_assignment() is None


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
import json, os, signal, socket
assigned = json.loads(os.environ["ORCHESTRA_WORKER"])
channel = socket.socket(fileno=assigned["channel_fd"])
if not os.path.exists("hangs"):
    channel.sendall(b'{"type": "ready"}\\n')
while b"retire" not in channel.recv(65536):
    pass
"""


class Parents:
    """A parent in this process, with one worker that does nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._command = folder / "worker"
        self.mend()
        (folder / "worker.py").write_text(WORKER)
        self.is_ready = asyncio.Event()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.parent = Parent(
            [str(self._command)],
            count=1,
            listening=self.listening,
            pool=PoolHost(max_total=1),
            on_ready=self.is_ready.set,
        )

    def mend(self) -> None:
        """Let workers start, from their folder."""
        text = f"cd {self._folder} && exec {sys.executable} worker.py"
        self._command.write_text(f"#!/bin/sh\n{text}\n")
        self._command.chmod(0o755)

    def break_down(self) -> None:
        """Let the start of the next workers fail."""
        self._command.chmod(0o644)

    def hang(self) -> None:
        """Let the next workers never be ready."""
        self.parent.ready_seconds = 0.1
        (self._folder / "hangs").touch()

    async def find(self) -> int:
        """Return the process of the only worker, once there is one."""
        return int(await wait_until(self._find))

    def _find(self) -> int | None:
        children = Path(f"/proc/self/task/{threading.main_thread().native_id}/children")
        found = [
            int(one)
            for one in children.read_text().split()
            if b"worker.py" in read_command(one)
        ]
        return found[0] if len(found) == 1 else None


def read_command(pid: str) -> bytes:
    """Return the command of a process; an empty text if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture
async def parents(tmp_path: Path) -> AsyncIterator[Parents]:
    found = Parents(tmp_path)
    running = asyncio.create_task(found.parent.run())
    await asyncio.wait_for(found.is_ready.wait(), scale(30))
    yield found
    os.kill(os.getpid(), signal.SIGTERM)
    await running
    found.listening.close()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().remove_signal_handler(number)


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


async def test_a_new_worker_that_is_never_ready_ends_the_reload(
    parents: Parents, caplog: pytest.LogCaptureFixture
) -> None:
    before = await parents.find()
    parents.hang()
    os.kill(os.getpid(), signal.SIGHUP)
    await wait_until(lambda: "ended by SIGKILL; the others go on" in caplog.text)
    assert await parents.find() == before


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
    server: Any = None
    running = asyncio.create_task(link.run(server))
    parent = await Channel.open(ours)
    messages = aiter(parent)
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
