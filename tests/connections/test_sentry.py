"""Test what Sentry gets of failures, and that no transaction is as long as a socket."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("sentry_sdk", reason="requirements.txt alone has no Sentry")

import sentry_sdk
from django.test import override_settings
from sentry_sdk.integrations.asgi import SentryAsgiMiddleware
from sentry_sdk.transport import Transport

from connections.background import BackgroundTasks
from connections.consumers import LimitedConsumer, LimitedJsonConsumer
from connections.telemetry.events import make_pseudonym
from connections.testing.communicators import Communicator, connect_to, make_node
from tests.connections.conversations import JsonEcho, open_connection, receive_type
from tests.project import ROOT


class Captured(Transport):
    """Keeps the events that Sentry would send."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Any) -> None:
        for item in envelope.items:
            if item.headers["type"] in ("event", "transaction"):
                self.events.append(item.payload.json)

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [one for one in self.events if one.get("type", "event") == kind]


@pytest.fixture
def captured() -> Iterator[Captured]:
    transport = Captured()
    sentry_sdk.init(
        dsn="https://key@sentry.invalid/1",
        transport=transport,
        default_integrations=False,
        traces_sample_rate=1.0,
    )
    yield transport
    sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(None)


class Failing(LimitedJsonConsumer):
    """Fails where its scope says."""

    groups = ["failing"]

    async def connect(self) -> None:
        if self.scope.get("at") == "connect":
            raise KeyError("planted")
        await self.accept()

    async def handle_note(self, content: Any) -> None:
        sentry_sdk.add_breadcrumb(message=content["text"])
        await self.send_json({"type": "noted"})

    async def handle_fail(self, content: Any) -> None:
        raise KeyError("planted")

    async def handle_spread(self, content: Any) -> None:
        await self.channel_layer.group_send("failing", {"type": "burst"})

    async def burst(self, event: Any) -> None:
        raise KeyError("planted")

    async def disconnect(self, code: int) -> None:
        if self.scope.get("at") == "disconnect":
            raise KeyError("planted")


async def test_a_failure_is_found_by_the_ref_of_its_client(captured: Captured) -> None:
    node = make_node()
    communicator = await open_connection(Failing, node, route="ws/fail/")
    await communicator.send_json_to({"type": "fail"})
    refs = [(await receive_type(communicator, "error"))["ref"]]
    await communicator.send_json_to({"type": "fail"})
    refs.append((await receive_type(communicator, "error"))["ref"])
    await communicator.disconnect()
    # The log counts the second one only; Sentry has both, and each once.
    assert [one["tags"]["ref"] for one in captured.of_kind("event")] == refs
    event = captured.of_kind("event")[0]
    assert event["exception"]["values"][-1]["type"] == "KeyError"
    assert event["tags"]["route"] == event["transaction"] == "ws/fail/"
    assert event["tags"]["node"] == node.node_id
    assert event["tags"]["client"] == "alice"
    assert event["tags"]["event"] == "websocket.receive"
    assert len(event["tags"]["connection"]) == 32
    assert "close_reason" not in event["tags"]


async def test_each_event_has_a_scope_of_its_own(captured: Captured) -> None:
    """A breadcrumb of one message is not in the report of another."""
    communicator = await open_connection(Failing, make_node())
    await communicator.send_json_to({"type": "note", "text": "of another message"})
    await receive_type(communicator, "noted")
    await communicator.send_json_to({"type": "spread"})
    await receive_type(communicator, "error")
    await communicator.disconnect()
    (event,) = captured.of_kind("event")
    assert event["tags"]["event"] == "burst"
    assert "of another message" not in json.dumps(event)


async def test_a_task_that_outlives_an_event_has_none_of_its_tags(
    captured: Captured,
) -> None:
    async def report() -> None:
        sentry_sdk.capture_message("of a task")

    tasks = BackgroundTasks()
    with sentry_sdk.isolation_scope() as scope:
        scope.set_tag("connection", "planted")
        tasks.start(report(), "a task")
        await tasks.wait()
        sentry_sdk.capture_message("of an event")
    task, event = captured.of_kind("event")
    assert "connection" not in task.get("tags", {})
    assert event["tags"]["connection"] == "planted"


@pytest.mark.parametrize("at", ["connect", "disconnect"])
async def test_a_failure_at_an_end_has_the_close_reason(
    captured: Captured, at: str
) -> None:
    communicator = connect_to(Failing, make_node(), at=at)
    await communicator.connect()
    if at == "disconnect":
        await communicator.send_json_to({"type": "unknown"})
    await communicator.disconnect(code=1000)
    (event,) = captured.of_kind("event")
    assert event["tags"]["event"] == f"websocket.{at}"
    expected = "internal_error" if at == "connect" else "closed"
    assert event["tags"]["close_reason"] == expected


async def test_a_client_is_named_by_its_pseudonym(captured: Captured) -> None:
    with override_settings(WEBSOCKET={"telemetry": {"clients": "pseudonym"}}):
        communicator = await open_connection(JsonEcho, make_node())
        await communicator.send_json_to({"type": "fail"})
        await receive_type(communicator, "error")
        await communicator.disconnect()
    (event,) = captured.of_kind("event")
    assert event["tags"]["client"] == make_pseudonym("alice")
    assert "alice" not in json.dumps(event)


async def test_a_secret_in_an_exception_is_concealed(captured: Captured) -> None:
    class Telling(LimitedConsumer):
        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            raise KeyError(str(self.scope["query_string"]))

    secret = "token=planted-secret-1234"
    communicator = await open_connection(
        Telling, make_node(), query_string=secret.encode()
    )
    await communicator.send_to(text_data="x")
    await communicator.disconnect()
    (event,) = captured.of_kind("event")
    assert "planted-secret-1234" not in json.dumps(event)


async def test_the_transaction_of_sentrys_middleware_ends_with_the_handshake(
    captured: Captured,
) -> None:
    """Its own would be as long as the socket."""

    class Spanning(LimitedConsumer):
        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            with sentry_sdk.start_span(op="planted"):
                await self.send(text_data="done")

    application = SentryAsgiMiddleware(Spanning.as_asgi())
    communicator = Communicator(application, "/ws/")
    communicator.scope["node"] = make_node()
    assert (await communicator.connect())[0]
    (transaction,) = captured.of_kind("transaction")
    assert transaction["contexts"]["trace"]["op"] == "websocket.server"
    await communicator.send_to(text_data="x")
    assert await communicator.receive_from() == "done"
    await communicator.disconnect()
    assert captured.of_kind("transaction") == [transaction]
    assert not transaction["spans"]


async def test_a_project_without_sentry_gets_no_scope() -> None:
    communicator = await open_connection(JsonEcho, make_node())
    assert "handshake" not in communicator.scope
    await communicator.disconnect()


@pytest.mark.slow
def test_the_integration_of_django_makes_no_transaction_of_a_socket() -> None:
    """In a process of its own, because the integration changes Django's classes."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.connections.sentry_process"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["transactions"] == []
    assert found["refs"] == found["captured"]
    assert len(found["refs"]) == 1
