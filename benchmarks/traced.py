"""Count the calls and the CPU time of an echo, with traces off and on."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from channels.exceptions import StopConsumer
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SpanExporter,
    SpanExportResult,
)

import connections.telemetry
from connections.asgi import Message
from connections.consumers import LimitedConsumer
from connections.telemetry.traces import use_provider
from connections.testing.communicators import make_node

_FOLDER = str(Path(connections.telemetry.__file__).parent)
_WARM_UP = 20
"""Events before the measured messages."""

_UNLIMITED = {"messages_per_second": 1e6, "burst_messages": 10_000_000}


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoCost:
    """The cost of one echo in this process, without a server."""

    calls: float
    """Calls of Python functions, resumptions of coroutines included."""

    telemetry_calls: float
    """Those of them into connections.telemetry."""

    cpu_us: float


class Echo(LimitedConsumer):
    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        await self.send(text_data=text_data)


def measure_echo_cost(messages: int) -> EchoCost:
    """Return the cost of an echo, as the traces of this process are set up."""
    calls = telemetry_calls = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls, telemetry_calls
        if event == "call":
            calls += 1
            telemetry_calls += frame.f_code.co_filename.startswith(_FOLDER)

    def stop_counting() -> None:
        sys.setprofile(None)

    asyncio.run(_converse(messages, lambda: sys.setprofile(count), stop_counting))
    moments: list[float] = []

    def keep_moment() -> None:
        moments.append(time.process_time())

    asyncio.run(_converse(messages, keep_moment, keep_moment))
    return EchoCost(
        calls=calls / messages,
        telemetry_calls=telemetry_calls / messages,
        cpu_us=1e6 * (moments[1] - moments[0]) / messages,
    )


async def _converse(
    messages: int, begin: Callable[[], None], end: Callable[[], None]
) -> None:
    """Serve one connection; call begin() and end() around its messages."""
    received = 0
    accepted = asyncio.Event()

    async def receive() -> Message:
        nonlocal received
        if received:
            await accepted.wait()
        received += 1
        number = received - _WARM_UP
        if received == 1:
            return {"type": "websocket.connect"}
        if number == 1:
            begin()
        if number > messages:
            end()
            return {"type": "websocket.disconnect", "code": 1000}
        return {"type": "websocket.receive", "text": "x"}

    async def send(message: Message) -> None:
        accepted.set()

    node = make_node(rate_limit=_UNLIMITED)
    scope = {"type": "websocket", "path": "/", "headers": [], "node": node}
    with contextlib.suppress(StopConsumer):
        await Echo()(scope, receive, send)


@contextlib.contextmanager
def use_dropping_provider() -> Iterator[None]:
    """Make spans with the SDK, and export them in batches to nowhere."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_DroppingExporter()))
    use_provider(provider)
    try:
        yield
    finally:
        use_provider(None)
        provider.shutdown()


class _DroppingExporter(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS
