"""Test that the settings of other ASGI servers are read and compared with ours."""

import asyncio
import logging
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from connections.node.other_server import (
    ServerSettings,
    find_other_server,
    read_environment,
    report_other_server,
)
from connections.server.checks import check_other_server
from connections.server.compat import DaphneServer
from connections.testing.communicators import make_config
from tests.logged import find_records

uvicorn: Any = pytest.importorskip(
    "uvicorn", reason="NOT RUN: no uvicorn; requirements/tests.txt has it"
)


async def answer(scope: Any, receive: Any, send: Any) -> None: ...


def make_uvicorn(**values: Any) -> Any:
    return uvicorn.Server(uvicorn.Config(answer, log_config=None, **values))


def make_daphne(endpoint: str = "tcp:port=0", **values: Any) -> Any:
    return DaphneServer(answer, endpoints=[endpoint], **values)


class GunicornWorker:
    """A worker of gunicorn with a configuration of uvicorn, as uvicorn_worker's."""

    def __init__(self, graceful_timeout: int, bind: str = "127.0.0.1:8000") -> None:
        self.cfg = SimpleNamespace(graceful_timeout=graceful_timeout, bind=[bind])
        self.config = uvicorn.Config(answer, log_config=None)


class HypercornConfig:
    def __init__(self, interval: float | None, bind: str = "127.0.0.1:8000") -> None:
        self.websocket_ping_interval = interval
        self.bind = [bind]


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Have the classes of servers that are not installed with each version of Django.

    tests/integration/test_other_servers.py reads the settings of the real ones.
    """
    for name, kind in (
        ("hypercorn.config.Config", HypercornConfig),
        ("gunicorn.workers.base.Worker", GunicornWorker),
    ):
        path, _, attribute = name.rpartition(".")
        module = ModuleType(path)
        setattr(module, attribute, kind)
        monkeypatch.setitem(sys.modules, path, module)


def run(self: Any, find: Callable[[], Any]) -> Any:
    """Call a function as a method of a server does."""
    return find()


def run_with(config: Any, find: Callable[[], Any]) -> Any:
    """Call a function as a function of hypercorn does."""
    return find()


@pytest.mark.parametrize(
    ("find", "expected"),
    [
        (
            lambda: run(make_uvicorn(), find_other_server),
            ("uvicorn", 20, 20, True, None),
        ),
        (
            lambda: run(
                make_uvicorn(
                    ws_ping_interval=None,
                    ws_ping_timeout=0,
                    ws_per_message_deflate=False,
                ),
                find_other_server,
            ),
            ("uvicorn", None, None, False, None),
        ),
        (
            lambda: run_with(HypercornConfig(None), find_other_server),
            ("hypercorn", None, None, True, None),
        ),
        (
            lambda: run_with(HypercornConfig(7), find_other_server),
            ("hypercorn", 7, None, True, None),
        ),
        (
            lambda: run(
                make_daphne(ping_interval=9, ping_timeout=8), find_other_server
            ),
            ("daphne", 9, 8, False, None),
        ),
        (
            lambda: run(GunicornWorker(12), find_other_server),
            ("uvicorn", 20, 20, True, 12),
        ),
    ],
)
async def test_the_settings_in_force_are_read(find: Any, expected: Any) -> None:
    found = find()
    assert (
        found.name,
        found.ping_interval_seconds,
        found.ping_timeout_seconds,
        found.compresses,
        found.kills_after_seconds,
    ) == expected


@pytest.mark.parametrize(
    ("server", "is_unix"),
    [
        (make_uvicorn(uds="/run/socket"), True),
        (make_uvicorn(), False),
        (make_daphne("unix:/run/socket"), True),
        (make_daphne(), False),
        (GunicornWorker(12, "unix:/run/socket"), True),
        (GunicornWorker(12), False),
    ],
)
async def test_a_unix_socket_of_a_server_is_found(server: Any, is_unix: bool) -> None:
    found = run(server, find_other_server)
    assert found.has_unix_socket is is_unix


async def test_a_unix_socket_of_hypercorn_is_found() -> None:
    found = run_with(HypercornConfig(7, "unix:/run/socket"), find_other_server)
    assert found.has_unix_socket


async def test_the_settings_are_read_in_a_task_of_the_server() -> None:
    """As where a project awaits uvicorn.Server.serve() itself."""
    has_ended = asyncio.Event()

    async def serve(self: Any) -> None:
        await wait()

    async def wait() -> None:
        await has_ended.wait()

    assert find_other_server() is None
    task = asyncio.create_task(serve(make_uvicorn(ws_ping_interval=3)))
    await asyncio.sleep(0)
    found = find_other_server()
    assert found is not None
    assert found.ping_interval_seconds == 3
    has_ended.set()
    await task


LIKE_OURS = {"ping_interval_seconds": 20.0, "ping_timeout_seconds": 20.0}


@pytest.mark.parametrize(
    ("values", "configured", "expected"),
    [
        (LIKE_OURS, {}, ""),
        (
            {},
            {},
            "uvicorn sends no pings: a client that vanished holds its slot until "
            "idle_timeout_seconds (300 s), and not for 50 s at most "
            "(--ws-ping-interval).",
        ),
        ({}, {"idle_timeout_seconds": 0}, "holds its slot without end"),
        ({"ping_interval_seconds": 20.0}, {}, "waits for no pong"),
        (
            {"ping_interval_seconds": 40.0, "ping_timeout_seconds": 20.0},
            {},
            "finds a client that vanished after up to 60 s",
        ),
        (
            {"ping_interval_seconds": 60.0, "ping_timeout_seconds": 20.0},
            {"ping_interval_seconds": 90},
            "proxies close connections that are silent for 60 s",
        ),
        (LIKE_OURS | {"compresses": True}, {}, "messages with tokens too"),
        (
            LIKE_OURS,
            {"compression": {"enabled": True}},
            "does not compress, though compression.enabled is true",
        ),
        (
            LIKE_OURS | {"compresses": True},
            {"compression": {"enabled": True}},
            "messages with tokens too",
        ),
        (LIKE_OURS | {"kills_after_seconds": 20.0}, {}, "gunicorn kills a worker 20 s"),
        (LIKE_OURS | {"kills_after_seconds": 90.0}, {}, ""),
        (LIKE_OURS | {"has_unix_socket": True}, {}, "no limit counts them apart"),
        (LIKE_OURS | {"has_unix_socket": True}, {"trusted_proxies": ["unix"]}, ""),
    ],
)
def test_each_difference_is_said_with_its_cost(
    values: dict[str, Any], configured: dict[str, Any], expected: str
) -> None:
    settings = ServerSettings(name="uvicorn", **values)
    found = list(settings.find_differences(make_config(**configured)))
    assert len(found) == bool(expected)
    assert expected in "".join(found)


async def test_the_log_of_a_start_names_settings_and_differences(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    server = make_uvicorn(ws_ping_interval=50)
    run(server, lambda: report_other_server(make_config()))
    records = find_records(caplog, "connections.node.other_server")
    said, pings, compression = [one.getMessage() for one in records]
    assert said.startswith("Under uvicorn these are not enforced: ")
    assert "It sends pings every 50 s with a time-out of 20 s" in said
    assert "--ws-ping-interval" in pings
    assert "--ws-per-message-deflate" in compression
    caplog.clear()
    report_other_server(make_config())
    assert not find_records(caplog, "connections.node.other_server")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, []),
        ({"UVICORN_WS_PING_INTERVAL": "100"}, ["up to 120 s", "60 s", "compresses"]),
        ({"UVICORN_WS_PING_TIMEOUT": "0"}, ["waits for no pong", "compresses"]),
        ({"UVICORN_WS_PER_MESSAGE_DEFLATE": "false"}, []),
        ({"UVICORN_WS_PING_INTERVAL": "often"}, []),
        (
            {"GUNICORN_CMD_ARGS": "--workers=2 --graceful-timeout 10"},
            ["compresses", "kills a worker 10 s"],
        ),
        ({"UVICORN_UDS": "/run/socket"}, ["compresses", "list unix"]),
        (
            {"GUNICORN_CMD_ARGS": "--bind unix:/run/socket"},
            ["compresses", "list unix"],
        ),
        ({"GUNICORN_CMD_ARGS": "-b 127.0.0.1:8000"}, []),
        ({"WEB_CONCURRENCY": "4"}, ["WEB_CONCURRENCY starts 4 workers"]),
        ({"WEB_CONCURRENCY": "1"}, []),
    ],
)
def test_a_check_reads_the_variables_of_servers(
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    expected: list[str],
) -> None:
    settings.WEBSOCKET = {}
    settings.REDIS_URL = None
    for name in ("WEB_CONCURRENCY", "GUNICORN_CMD_ARGS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = check_other_server()
    assert {one.id for one in found} <= {"connections.W027"}
    assert len(found) == len(expected)
    for one, text in zip(found, expected, strict=True):
        assert text in one.msg


async def test_without_a_server_nothing_is_found() -> None:
    assert read_environment({}) is None
    assert find_other_server() is None
