"""
python -m benchmarks.counting: what counting costs, as a part of one message.

A message is one echo through the consumer, its limits and its counters, in
memory: without socket, frame or server, so that the part that counting takes is
the largest that it can be.
"""

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

_MESSAGES = 20_000
_ROUNDS = 9
_CONNECTIONS = 1_000
_ALLOWED_PERCENT = 2.0


def main() -> int:
    """Measure; return 1 where counting takes more than it may."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orchestra.settings")
    import django

    django.setup()
    message_us, counting_us, sample_us = asyncio.run(_measure())
    percent = 100 * counting_us / message_us
    print(f"one message in memory, all counted:  {message_us:8.2f} us")
    print(
        f"of that, counting:                   {counting_us:8.3f} us, {percent:.2f} %"
    )
    print(f"a second's sum of {_CONNECTIONS} connections:  {sample_us:8.0f} us")
    return int(percent > _ALLOWED_PERCENT)


async def _measure() -> tuple[float, float, float]:
    """Return medians in microseconds: a message, its counting, a sample."""
    from connections.config import WebSocketConfig
    from connections.hub import LiveConnection
    from connections.metrics.counters import LATENCY_EDGES, Histogram
    from connections.node import Node

    messages = [await _echo() for _ in range(_ROUNDS)]
    histogram = Histogram(LATENCY_EDGES)
    observe = histogram.observe
    counting = []
    for _ in range(_ROUNDS):
        began_at = time.process_time()
        for _ in range(_MESSAGES):
            pass
        empty_seconds = time.process_time() - began_at
        began_at = time.process_time()
        for _ in range(_MESSAGES):
            observe(0.000_05)
        seconds = time.process_time() - began_at - empty_seconds
        counting.append(1e6 * seconds / _MESSAGES)
    node = Node(WebSocketConfig())
    wire: Any = None
    connections = [
        LiveConnection(connection_id=str(n), client_id="c", now=0, wire=wire)
        for n in range(_CONNECTIONS)
    ]
    samples = []
    for _ in range(_ROUNDS):
        began_at = time.process_time()
        node.counters.get_totals(connections)
        samples.append(1e6 * (time.process_time() - began_at))
    medians = map(statistics.median, (messages, counting, samples))
    message_us, counting_us, sample_us = medians
    return message_us, counting_us, sample_us


async def _echo() -> float:
    """Return the microseconds of one message of a conversation in memory."""
    from connections.config import WebSocketConfig
    from connections.credentials.identity import Credential
    from connections.node import Node
    from connections.options import read_section
    from orchestra.consumers import EchoConsumer

    rate = {"messages_per_second": 1e6, "burst_messages": 10_000_000}
    config = read_section(WebSocketConfig, {"rate_limit": rate}, "websocket", [])
    node = Node(config)
    scope = {
        "type": "websocket",
        "path": "/ws/echo/",
        "headers": [],
        "query_string": b"",
        "node": node,
        "credential": Credential(client_id="benchmark"),
    }
    events = _make_events()

    async def receive() -> Any:
        return next(events)

    async def send(message: Any) -> None:
        pass

    began_at = time.process_time()
    await EchoConsumer.as_asgi()(scope, receive, send)
    seconds = time.process_time() - began_at
    if node.counters.get_totals(())["messages_out"] != _MESSAGES:
        raise SystemExit("not every message was echoed and counted")
    return 1e6 * seconds / _MESSAGES


def _make_events() -> Iterator[dict[str, Any]]:
    yield {"type": "websocket.connect"}
    for _ in range(_MESSAGES):
        yield {"type": "websocket.receive", "text": "hello"}
    yield {"type": "websocket.disconnect", "code": 1000}


if __name__ == "__main__":
    sys.exit(main())
