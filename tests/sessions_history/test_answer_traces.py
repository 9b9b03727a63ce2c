"""Test that answers and other writers of a session continue the trace of a message."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk", reason="only the main cell has the SDK")

from django.db import connections
from django.test import override_settings
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from connections.testing.communicators import make_config
from connections.testing.waiting import wait_until
from sessions_history import work, writer
from sessions_history.log import get_log
from sessions_history.models import HistoryEntry, Work
from sessions_history.writer import append_sync, open_stream
from tests.connections.telemetry_spans import Spans
from tests.sessions_history.appends import make_session
from tests.sessions_history.conftest import MakeNode
from tests.sessions_history.responding import Reverse, Scripted
from tests.sessions_history.talks import Talk, talk

pytestmark = pytest.mark.django_db(transaction=True)

TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENTS = f"00-{TRACE}-b7ad6b7169203331-01"
QUICK: dict[str, Any] = {
    "node": {"node_timeout_seconds": 1},
    "telemetry": {"trust_clients": True},
}
"""Of nodes: they soon take over what others left."""

PATIENT: dict[str, Any] = {**QUICK, "node": {"node_timeout_seconds": 60}}
"""Of a worker: its leases outlast a pause of the machine."""


@pytest.fixture
def spans() -> Iterator[Spans]:
    found = Spans()
    with override_settings(WEBSOCKET=make_config(**PATIENT)):
        yield found
        writer.close()
    found.close()


def name_trace(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


async def ask(alice: Talk) -> None:
    content = {"data": {"text": "hi"}, "traceparent": CLIENTS}
    await alice.send(type="message", id="planted-page-1", **content)
    await alice.receive_type("ack")


async def test_an_answer_is_in_the_trace_of_its_message(
    make_node: MakeNode, spans: Spans
) -> None:
    node = make_node(**QUICK)
    get_log(node).responder = Reverse()
    async with talk(node) as alice:
        await ask(alice)
        await wait_until(lambda: spans.named("answer"))
        answer, message = spans.only("answer"), spans.only("websocket.receive")
        assert name_trace(answer) == name_trace(message) == TRACE
        assert answer.parent is not None
        assert message.context is not None
        assert answer.parent.span_id == message.context.span_id
        assert answer.attributes is not None
        assert answer.attributes["orchestra.session.id"] == alice.session_id
        assert answer.attributes["orchestra.session.offset"] == 2


async def test_an_answer_that_fails_is_an_error(
    make_node: MakeNode, spans: Spans
) -> None:
    node, responder = make_node(**QUICK), Scripted()
    get_log(node).responder = responder
    responder.play(KeyError("planted"))
    async with talk(node) as alice:
        await ask(alice)
        await wait_until(lambda: spans.named("answer"))
    answer = spans.only("answer")
    assert answer.status.status_code is StatusCode.ERROR
    assert [event.name for event in answer.events] == ["exception"]


async def test_an_answer_that_the_client_stops_is_no_error(
    make_node: MakeNode, spans: Spans
) -> None:
    node, responder = make_node(**QUICK), Scripted()
    get_log(node).responder = responder
    async with talk(node) as alice:
        await ask(alice)
        await wait_until(lambda: responder.asked)
        await alice.send(type="cancel", offset=2)
        await wait_until(lambda: spans.named("answer"))
    assert spans.only("answer").status.status_code is not StatusCode.ERROR


async def test_a_node_that_takes_an_answer_over_continues_its_trace(
    make_node: MakeNode, spans: Spans
) -> None:
    def leave() -> None:
        session_id = make_session()
        for offset, state in enumerate(("done", "streaming"), 1):
            data = '"hi"' if state == "done" else '{"text":""}'
            HistoryEntry.objects.create(
                session_id=session_id, offset=offset, sender="x", state=state, data=data
            )
        terms = work.Terms(owner="dead", lease_seconds=-9, timeout_seconds=60)
        work.add([work.NewWork(session_id, 2, 1, "key", CLIENTS)], terms)

    node, responder = make_node(**QUICK), Scripted()
    assert node.database is not None
    await node.database.write(leave)
    responder.play("hello", None)
    get_log(node).responder = responder
    await node.start()
    await wait_until(lambda: spans.named("answer"))
    assert name_trace(spans.only("answer")) == TRACE


async def test_a_worker_continues_the_trace_of_its_task(
    make_node: MakeNode, spans: Spans
) -> None:
    """Its span is current, as with an instrumentation of Celery, or it names one."""
    tracer = spans.provider.get_tracer("a worker")
    seen: list[str] = []

    def run(session_id: str) -> None:
        try:
            with tracer.start_as_current_span("task"):
                append_sync(session_id, {"n": 1})
                with open_stream(session_id) as stream:
                    stream.write("text")
                    row = Work.objects.get(session=session_id)
                    seen.append(row.traceparent)
            with open_stream(session_id, traceparent=CLIENTS) as stream:
                stream.write("text")
        finally:
            connections.close_all()

    async with talk(make_node(**QUICK)) as alice:
        await alice.say_and_wait({"text": "hi"})
        await asyncio.to_thread(run, alice.session_id)
    first, second = spans.named("stream")
    task = spans.only("task")
    assert name_trace(spans.only("append")) == name_trace(first) == name_trace(task)
    assert name_trace(second) == TRACE
    assert name_trace(first) in seen[0]
