"""Test one trace through a client, serve, the layer, a worker and back, over OTLP."""

from pathlib import Path

import pytest

from connections.testing import Servers
from tests.integration.redis_process import RedisProcess

pytest.importorskip(
    "opentelemetry.exporter",
    reason="NOT RUN: no opentelemetry-sdk; requirements/tests.txt has it",
)

from tests.integration.traced.conversation import (
    CONFIG,
    STEPS,
    ask_once,
    make_environment,
    run_worker,
)
from tests.integration.traced.receiver import receive_spans


async def test_one_trace_goes_through_all_processes_and_back(
    servers: Servers, redis_process: RedisProcess, tmp_path: Path
) -> None:
    with receive_spans() as receiver:
        environment = make_environment(receiver, redis_process)
        server = servers.start(config=CONFIG, environment=environment)
        async with run_worker(server, tmp_path):
            spans = await ask_once(server, receiver)
    by_name = {one.name.split()[0]: one for one in spans}
    parents = {one.span_id: one.name.split()[0] for one in spans}
    assert [(one.service, one.name) for one in spans if one.parent_id == ""] == [
        STEPS[0]
    ]
    assert {name: parents.get(one.parent_id) for name, one in by_name.items()} == {
        "ask": None,
        "websocket.receive": "ask",
        "answer": "websocket.receive",
        "send": "answer",
        "job": "answer",
        "stream": "job",
        "group_send": "job",
        "process": "group_send",
    }
    assert by_name["websocket.receive"].links
    assert by_name["process"].links == by_name["websocket.receive"].links
