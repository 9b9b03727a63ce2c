"""Test the spans of handshakes, messages, layer events and failures."""

import asyncio
import contextlib
import gc
import json
import re
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk", reason="only the main cell has the SDK")

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import InMemoryChannelLayer, get_channel_layer
from django.test import override_settings
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.registry import Collector

from benchmarks.traced import measure_echo_cost, use_dropping_provider
from connections.background import BackgroundTasks
from connections.consumers import (
    LimitedConsumer,
    LimitedJsonConsumer,
    LimitedSyncConsumer,
)
from connections.layers.local import LocalLayer
from connections.middleware import NodeMiddleware, deny
from connections.node.current import get_node
from connections.telemetry import names
from connections.telemetry.carrier import TRACEPARENT, get_traceparent, with_trace
from connections.telemetry.events import make_pseudonym
from connections.telemetry.handshake import begin_handshake
from connections.testing.communicators import Communicator, connect_to, make_node
from connections.testing.waiting import wait_until
from connections.views.families import make_histogram
from connections.views.prometheus import choose_format
from tests.connections.conversations import (
    Echo,
    JsonEcho,
    open_connection,
    receive_type,
)
from tests.connections.telemetry_spans import Spans
from tests.project import ROOT

CLIENTS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans() -> Iterator[Spans]:
    found = Spans()
    yield found
    found.close()


def name_trace(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def find_links(span: ReadableSpan) -> set[int]:
    return {link.context.span_id for link in span.links}


def get_id(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


class Fixed(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


class Talker(LimitedJsonConsumer):
    """Sends to a group, and keeps the events that it gets."""

    groups = ["talk"]

    async def handle_say(self, content: Any) -> None:
        await self.channel_layer.group_send("talk", {"type": "said", "text": "hello"})

    async def said(self, event: Any) -> None:
        await self.send_json(event)


async def test_a_message_has_a_short_span_that_links_to_its_handshake(
    spans: Spans,
) -> None:
    communicator = await open_connection(Echo, make_node(), route="ws/echo/")
    await communicator.send_to(text_data="hé")
    await communicator.receive_from()
    await communicator.send_to(bytes_data=b"four")
    await communicator.receive_from()
    await communicator.disconnect()
    handshake = spans.only("GET")
    assert handshake.name == "GET ws/echo/"
    assert handshake.kind is SpanKind.SERVER
    text, binary = spans.named("websocket.receive")
    assert text.name == "websocket.receive ws/echo/"
    assert text.parent is None
    assert name_trace(text) not in (name_trace(binary), name_trace(handshake))
    for span in (text, binary):
        assert find_links(span) == {get_id(handshake)}
    assert text.attributes is not None
    assert binary.attributes is not None
    assert text.attributes["orchestra.message.bytes"] == 3
    assert binary.attributes["orchestra.message.opcode"] == "binary"
    assert binary.attributes["orchestra.message.bytes"] == 4


async def test_no_span_lasts_as_long_as_the_connection(spans: Spans) -> None:
    """A consumer whose connect() goes on after the accept delays no span."""

    class Lingering(LimitedConsumer):
        async def connect(self) -> None:
            await self.accept()
            await self.scope["gate"].wait()

    gate = asyncio.Event()
    communicator = await open_connection(Lingering, make_node(), gate=gate)
    handshake = spans.only("GET")
    assert handshake.attributes is not None
    assert handshake.attributes["orchestra.handshake.outcome"] == "accepted"
    assert handshake.attributes["http.response.status_code"] == 101
    gate.set()
    await communicator.disconnect()
    end = spans.only("websocket.disconnect")
    assert end.attributes is not None
    assert end.attributes["signalr.connection.status"] == "normal_closure"
    assert end.attributes["orchestra.close.code"] == 1000


async def test_a_layer_event_continues_the_trace_of_its_sender(spans: Spans) -> None:
    communicator = await open_connection(Talker, make_node())
    await communicator.send_json_to({"type": "say"})
    assert await communicator.receive_json_from() == {"type": "said", "text": "hello"}
    await communicator.disconnect()
    sent, received = spans.only("group_send"), spans.only("process said")
    message = spans.only("websocket.receive")
    assert name_trace(message) == name_trace(sent) == name_trace(received)
    assert received.parent is not None
    assert received.parent.span_id == get_id(sent)
    assert sent.kind is SpanKind.PRODUCER
    assert received.kind is SpanKind.CONSUMER
    assert find_links(received) == {get_id(spans.only("GET"))}
    assert sent.attributes is not None
    assert sent.attributes["messaging.destination.name"] == "talk"


async def test_code_outside_of_a_consumer_begins_the_trace(spans: Spans) -> None:
    """A view, a command or a task may send to a group in a span of its own."""
    communicator = await open_connection(Talker, make_node())
    tracer = spans.provider.get_tracer("project")
    with tracer.start_as_current_span("a task"):
        layer: Any = get_channel_layer()
        await layer.group_send("talk", {"type": "said"})
    assert await communicator.receive_json_from() == {"type": "said"}
    await communicator.disconnect()
    assert name_trace(spans.only("process said")) == name_trace(spans.only("a task"))


async def test_a_layer_of_somebody_else_carries_the_trace(spans: Spans) -> None:
    layers = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    with override_settings(CHANNEL_LAYERS=layers):
        communicator = await open_connection(Talker, make_node())
        layer: Any = get_channel_layer()
        assert isinstance(layer, InMemoryChannelLayer)
        with spans.provider.get_tracer("project").start_as_current_span("a task"):
            await layer.group_send("talk", with_trace({"type": "said"}))
        assert await communicator.receive_json_from() == {"type": "said"}
        await communicator.disconnect()
    assert name_trace(spans.only("process said")) == name_trace(spans.only("a task"))


async def test_a_node_without_traces_removes_the_field_of_a_sender() -> None:
    communicator = await open_connection(Talker, make_node())
    layer: Any = get_channel_layer()
    await layer.group_send("talk", {"type": "said", TRACEPARENT: CLIENTS})
    assert await communicator.receive_json_from() == {"type": "said"}
    await communicator.disconnect()


async def test_a_stock_consumer_gets_no_field_of_a_trace(spans: Spans) -> None:
    class Stock(AsyncWebsocketConsumer):
        groups = ["talk"]

        async def said(self, event: Any) -> None:
            await self.send(text_data=json.dumps(event))

    communicator = Communicator(Stock.as_asgi(), "/")
    assert (await communicator.connect())[0]
    layer = get_channel_layer()
    assert isinstance(layer, LocalLayer)
    await layer.group_send("talk", {"type": "said"})
    assert await communicator.receive_json_from() == {"type": "said"}
    await communicator.disconnect()


async def test_an_exception_is_recorded_with_the_ref_of_the_client(
    spans: Spans,
) -> None:
    communicator = await open_connection(JsonEcho, make_node())
    await communicator.send_json_to({"type": "fail"})
    ref = (await receive_type(communicator, "error"))["ref"]
    await communicator.disconnect()
    span = spans.only("websocket.receive")
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["orchestra.error.ref"] == ref
    (event,) = span.events
    assert event.attributes is not None
    assert event.attributes["exception.type"] == "KeyError"
    assert event.attributes["orchestra.error.ref"] == ref


async def test_a_failure_before_the_handler_has_a_span(spans: Spans) -> None:
    class Undecided(LimitedJsonConsumer):
        def is_activity(self, message: Any) -> bool:
            raise KeyError("planted")

    communicator = await open_connection(Undecided, make_node())
    await communicator.send_json_to({"type": "x"})
    ref = (await receive_type(communicator, "error"))["ref"]
    await communicator.disconnect()
    span = spans.only("websocket.receive")
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["orchestra.error.ref"] == ref


async def test_reference_counting_frees_a_traced_connection(spans: Spans) -> None:
    freed: list[weakref.ref[Any]] = []

    class Kept(LimitedConsumer):
        async def connect(self) -> None:
            freed.append(weakref.ref(self.connection.live))
            await self.accept()

    communicator = await open_connection(Kept, make_node())
    await communicator.send_to(text_data="x")
    gc.disable()
    try:
        await communicator.disconnect()
        del communicator
        await wait_until(lambda: freed[0]() is None)
    finally:
        gc.enable()


async def test_a_failing_handshake_is_an_error(spans: Spans) -> None:
    class Failing(LimitedConsumer):
        async def connect(self) -> None:
            raise KeyError("planted")

    communicator = connect_to(Failing, make_node())
    await communicator.connect()
    await communicator.disconnect()
    handshake = spans.only("GET")
    assert handshake.status.status_code is StatusCode.ERROR
    assert [event.name for event in handshake.events] == ["exception"]
    assert handshake.attributes is not None
    assert handshake.attributes["orchestra.handshake.outcome"] == "internal_error"


@pytest.mark.parametrize("trusts", [True, False])
async def test_a_client_that_is_not_trusted_is_linked(
    spans: Spans, trusts: bool
) -> None:
    """A client could otherwise choose the ids and the sampling of our traces."""
    with override_settings(WEBSOCKET={"telemetry": {"trust_clients": trusts}}):
        headers = [(b"traceparent", CLIENTS.encode())]
        communicator = await open_connection(JsonEcho, make_node(), headers=headers)
        await communicator.send_json_to({"type": "echo", "traceparent": CLIENTS})
        await communicator.receive_json_from()
        await communicator.send_json_to({"type": "echo", "traceparent": "00-wrong"})
        await communicator.receive_json_from()
        await communicator.disconnect()
    message, wrong = spans.named("websocket.receive")
    _, theirs, parent, _ = CLIENTS.split("-")
    for span in (spans.only("GET"), message):
        assert (name_trace(span) == theirs) is trusts
        assert (int(parent, 16) in find_links(span)) is not trusts
    assert wrong.parent is None
    assert len(wrong.links) == 1


async def test_a_message_that_is_no_json_has_a_span(spans: Spans) -> None:
    communicator = await open_connection(Echo, make_node())
    deep = '{"traceparent":' + "[" * 100_000
    for text in ('"traceparent"', "[]", deep):
        await communicator.send_to(text_data=text)
        await communicator.receive_from()
    await communicator.disconnect()
    assert len(spans.named("websocket.receive")) == 3


async def test_a_task_that_outlives_an_event_has_no_span_as_its_parent(
    spans: Spans,
) -> None:
    seen: list[str] = []
    tasks = BackgroundTasks()

    async def work() -> None:
        seen.append(get_traceparent())

    with spans.provider.get_tracer("project").start_as_current_span("an event"):
        tasks.start(work(), "a task")
        assert get_traceparent()
    await tasks.wait()
    assert seen == [""]


async def test_the_span_of_an_event_ends_with_it(spans: Spans) -> None:
    """The tasks of a connection share one context, in which no span must stay."""
    seen: list[str] = []

    class Between(LimitedConsumer):
        def is_activity(self, message: Any) -> bool:
            seen.append(get_traceparent())
            return True

    communicator = await open_connection(Between, make_node())
    for _ in range(2):
        await communicator.send_to(text_data="x")
    await communicator.disconnect()
    assert seen == ["", ""]


async def test_code_in_a_thread_has_the_span_of_its_message(spans: Spans) -> None:
    class Threaded(LimitedSyncConsumer):
        def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            self.send(text_data=get_traceparent())

    communicator = await open_connection(Threaded, make_node())
    await communicator.send_to(text_data="x")
    seen = await communicator.receive_from()
    await communicator.disconnect()
    assert name_trace(spans.only("websocket.receive")) in seen


async def test_a_handshake_that_the_node_refuses_has_a_span(spans: Spans) -> None:
    node = make_node()
    node.begin_drain()
    communicator = connect_to(Echo, node)
    await communicator.connect()
    await communicator.disconnect()
    handshake = spans.only("GET")
    assert handshake.attributes is not None
    assert handshake.attributes["orchestra.handshake.outcome"] == "draining"


async def test_a_handshake_that_the_middleware_denies_has_a_span(
    spans: Spans,
) -> None:
    sent: list[Any] = []

    async def keep(message: Any) -> None:
        sent.append(message)

    node = make_node()
    scope = {"type": "websocket", "path": "/ws/", "node": node}
    scope, send = begin_handshake(scope, keep, node)
    await deny(scope, send, 403)
    assert sent == [{"type": "websocket.close"}]
    handshake = spans.only("GET")
    assert handshake.attributes is not None
    assert handshake.attributes["orchestra.handshake.outcome"] == "origin"
    assert handshake.attributes["http.response.status_code"] == 403
    assert handshake.attributes["url.path"] == "/ws/"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("ends", "outcome", "status"),
    [
        ("leaves", "unanswered", None),
        ("raises", "internal_error", 500),
        ("accepts", "accepted", 101),
    ],
)
async def test_the_middleware_begins_the_span_of_a_handshake(
    spans: Spans, ends: str, outcome: str, status: int | None
) -> None:
    """It surrounds consumers without limits as well."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if ends == "raises":
            raise KeyError("planted")
        if ends == "accepts":
            await send({"type": "websocket.accept"})
            assert spans.named("GET")
            await send({"type": "websocket.send", "text": "x"})

    communicator = Communicator(NodeMiddleware(application), "/ws/")
    await communicator.send_input({"type": "websocket.connect"})
    with contextlib.suppress(KeyError):
        await communicator.wait()
    await get_node().stop()
    handshake = spans.only("GET")
    assert handshake.attributes is not None
    assert handshake.attributes["orchestra.handshake.outcome"] == outcome
    assert handshake.attributes.get("http.response.status_code") == status


@pytest.mark.parametrize(
    ("clients", "name", "value"),
    [
        ("id", "enduser.id", "c1"),
        ("pseudonym", "enduser.pseudo.id", make_pseudonym("c1")),
        ("none", None, None),
    ],
)
async def test_a_client_is_named_as_configured(
    spans: Spans, clients: str, name: str | None, value: str | None
) -> None:
    class Named(Echo):
        def get_client_id(self, scope: Any) -> str:
            return "c1"

    with override_settings(WEBSOCKET={"telemetry": {"clients": clients}}):
        communicator = await open_connection(Named, make_node())
        await communicator.disconnect()
    found = spans.only("websocket.disconnect").attributes
    assert found is not None
    named = {key: found[key] for key in found if key.startswith("enduser.")}
    assert named == ({name: value} if name else {})


async def test_the_page_names_every_span_and_attribute(spans: Spans) -> None:
    """The tables of docs/howto/observe.md are those of the code."""
    text = (ROOT / "docs/howto/observe.md").read_text()
    cells = [line.split(" | ")[0] for line in text.splitlines() if line[:3] == "| `"]
    named = {name for cell in cells for name in re.findall("`([^`]+)`", cell)}
    assert named >= names.ATTRIBUTES
    shown = {one for one in named if one.startswith(names.NAMESPACES)}
    assert shown == names.ATTRIBUTES
    assert {one.split()[0] for one in named} >= {*names.SPANS}


async def test_spans_have_documented_names_and_attributes_alone(spans: Spans) -> None:
    communicator = await open_connection(Talker, make_node(), route="ws/talk/")
    await communicator.send_json_to({"type": "say"})
    await communicator.receive_json_from()
    await communicator.send_json_to({"type": "unknown"})
    await communicator.disconnect()
    assert {one.name.split()[0] for one in spans.all()} <= {*names.SPANS}
    for span in spans.all():
        assert set(span.attributes or ()) <= names.ATTRIBUTES


async def test_a_histogram_names_the_trace_of_a_message_in_openmetrics(
    spans: Spans,
) -> None:
    node = make_node()
    communicator = await open_connection(Echo, node)
    await communicator.send_to(text_data="x")
    await communicator.receive_from()
    await communicator.disconnect()
    registry = CollectorRegistry()
    name, about = "websocket_handler_duration_seconds", "Durations."
    registry.register(Fixed([make_histogram(name, about, node.counters.handling)]))
    shown = choose_format("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    text = shown.encode(registry).decode()
    (family,) = parse_openmetrics(text)  # type: ignore[no-untyped-call]
    (exemplar,) = [one.exemplar for one in family.samples if one.exemplar]
    message = spans.only("websocket.receive")
    assert exemplar.labels["trace_id"] == name_trace(message)
    assert exemplar.labels["span_id"] == f"{get_id(message):016x}"
    plain = choose_format("text/plain").encode(registry)
    assert b"trace_id" not in plain


async def test_traces_can_be_switched_off(spans: Spans) -> None:
    with override_settings(WEBSOCKET={"telemetry": {"traces": False}}):
        communicator = await open_connection(Talker, make_node())
        await communicator.send_json_to({"type": "say"})
        await communicator.receive_json_from()
        await communicator.disconnect()
    assert not spans.all()


async def test_without_a_provider_there_are_no_spans() -> None:
    communicator = await open_connection(Echo, make_node())
    assert "handshake" not in communicator.scope
    assert isinstance(trace.get_current_span(), trace.NonRecordingSpan)
    await communicator.disconnect()


def test_an_echo_without_a_provider_calls_nothing_of_the_traces() -> None:
    """A count, which does not depend on the machine, as `benchmarks.counting` has."""
    assert measure_echo_cost(50).telemetry_calls == 0
    with use_dropping_provider():
        assert measure_echo_cost(50).telemetry_calls > 1
