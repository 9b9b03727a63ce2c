"""Test the start of a protected application by a server without lifespan events."""

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.urls import path

from connections.consumers import LimitedJsonConsumer
from connections.models import Node as NodeRow
from connections.node.current import get_node
from connections.node.node import Node
from connections.routing import protect
from connections.testing.communicators import Communicator
from connections.testing.waiting import scale, wait_until
from tests.connections.rows import make_node_row

uvicorn: Any = pytest.importorskip(
    "uvicorn", reason="NOT RUN: no uvicorn; requirements/tests.txt has it"
)
pytestmark = pytest.mark.django_db(transaction=True)

SERVED = {"asgi": {"version": "3.0"}, "client": ["192.0.2.7", 1]}
"""The keys of a scope that servers set."""

CONFIG = {
    "anonymous": True,
    "allowed_origins": ["https://app.example"],
    "drain": {"delay_seconds": 0, "grace_seconds": 10},
    "node": {"beat_seconds": 0.4},
    "pool": "memory",
}


class Echo(LimitedJsonConsumer):
    async def handle_echo(self, content: Any) -> None:
        await self.send_json(content)


async def do_nothing(scope: Any, receive: Any, send: Any) -> None: ...


@pytest.fixture
def application(settings: Any) -> Any:
    settings.WEBSOCKET = CONFIG
    settings.ALLOWED_HOSTS = ["app.example"]
    return protect(http=do_nothing, websocket=[path("a/", Echo.as_asgi())])


@pytest.fixture
async def started() -> AsyncIterator[list[Node]]:
    """Nodes that a test has started; they are stopped after it."""
    nodes: list[Node] = []
    yield nodes
    for node in nodes:
        await node.stop()


async def open_from_server(application: Any) -> Communicator:
    headers = [(b"host", b"app.example"), (b"origin", b"https://app.example")]
    communicator = Communicator(application, "/a/", headers)
    communicator.scope |= SERVED
    assert (await communicator.connect(timeout=scale(15)))[0]
    return communicator


def find_events(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    return [
        one.getMessage() for one in caplog.records if getattr(one, "event", "") == event
    ]


async def test_the_first_connection_reports_the_server_once(
    application: Any, started: list[Node], caplog: pytest.LogCaptureFixture
) -> None:
    # The settings are read from the variables of functions under way.
    config = uvicorn.Config(do_nothing, log_config=None, ws_ping_interval=7)
    communicators = await asyncio.gather(
        *(open_from_server(application) for _ in range(3))
    )
    started.append(get_node())
    (report,) = find_events(caplog, "foreign_server")
    assert f"pings every {config.ws_ping_interval} s" in report
    await asyncio.gather(*(one.disconnect() for one in communicators))


async def test_a_request_over_http_starts_the_node_as_a_connection_does(
    application: Any, started: list[Node], caplog: pytest.LogCaptureFixture
) -> None:
    config = uvicorn.Config(do_nothing, log_config=None)
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], **SERVED}
    await application(scope, None, None)
    started.append(get_node())
    assert get_node().is_running
    assert len(find_events(caplog, "foreign_server")) == bool(config)


async def test_a_startup_event_after_the_first_connection_begins_nothing_twice(
    application: Any, started: list[Node], caplog: pytest.LogCaptureFixture
) -> None:
    config = uvicorn.Config(do_nothing, log_config=None)
    callbacks = [*gc.callbacks]
    communicator = await open_from_server(application)
    node = get_node()
    started.append(node)
    events = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[str] = []

    async def receive() -> Any:
        return events.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await communicator.disconnect()
    await application({"type": "lifespan", **SERVED}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert node.has_stopped
    assert gc.callbacks == callbacks
    assert len(find_events(caplog, "foreign_server")) == bool(config)


@pytest.fixture
def taken() -> Iterator[list[int]]:
    """The signals that reached the handler of the server."""
    numbers: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGTERM, before)


async def test_a_stop_signal_drains_before_the_server_gets_it(
    application: Any, started: list[Node], taken: list[int]
) -> None:
    communicator = await open_from_server(application)
    node = get_node()
    started.append(node)
    signal.raise_signal(signal.SIGTERM)
    bye = await communicator.receive_json_from(scale(15))
    assert (bye["type"], bye["reason"]) == ("bye", "draining")
    assert not taken
    close = await communicator.receive_output(scale(15))
    assert close["code"] == 4200
    await communicator.disconnect()
    await wait_until(lambda: taken == [signal.SIGTERM])
    assert node.has_stopped


async def test_an_older_node_without_shared_limits_is_reported(
    application: Any, started: list[Node], caplog: pytest.LogCaptureFixture
) -> None:
    older = await sync_to_async(make_node_row)("older", host="elsewhere", pool="memory")
    communicator = await open_from_server(application)
    started.append(get_node())

    async def find_report() -> list[str]:
        await NodeRow.objects.filter(node_id=older.node_id).aupdate(beat=older.beat + 1)
        older.beat += 1
        return find_events(caplog, "unshared_limits")

    (report,) = await wait_until(find_report)
    assert "Each process counts on its own" in report
    assert "elsewhere:1" in report
    await communicator.disconnect()
