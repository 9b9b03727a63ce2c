"""Let a client ask once, and return the spans of that trace from all processes."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from opentelemetry import trace

from connections.client import SessionClient
from connections.telemetry.carrier import get_traceparent
from connections.testing import LiveServer
from connections.testing.waiting import scale, wait_until
from tests.integration.redis_process import RedisProcess
from tests.integration.traced.provider import make_provider
from tests.integration.traced.receiver import ReceivedSpan, Receiver

STEPS = (
    ("browser", "ask"),
    ("serve", "websocket.receive ws/sessions/<str:session_id>/"),
    ("serve", "answer"),
    ("serve", "send"),
    ("worker", "job"),
    ("worker", "stream"),
    ("worker", "group_send"),
    ("serve", "process answered"),
)
"""The spans of one trace: service and name."""

WRITTEN = (3, "done")
"""The entry of the worker, after the message and the answer that delegates it."""

CONFIG: dict[str, object] = {"telemetry__trust_clients": "true"}


def make_environment(receiver: Receiver, redis: RedisProcess) -> dict[str, str]:
    """Return the environment of the processes that serve and work."""
    return {
        "DJANGO_SETTINGS_MODULE": "tests.integration.traced.settings",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "REDIS_URL": redis.url,
        "SESSIONS_RESPONDER": "",
    }


@asynccontextmanager
async def run_worker(server: LiveServer, folder: Path) -> AsyncIterator[None]:
    """Run the worker of a server, once it can be reached."""
    with (folder / "worker.log").open("wb") as log:
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.integration.traced.worker"),
            env=server.environment,
            stdout=log,
            stderr=log,
        )
        try:
            await wait_until(lambda: "ready" in (folder / "worker.log").read_text())
            yield
        finally:
            worker.terminate()
            await worker.wait()


async def ask_once(server: LiveServer, receiver: Receiver) -> list[ReceivedSpan]:
    """Ask as a page does; return the spans of its trace once all have arrived."""
    provider = make_provider("browser", receiver.endpoint)
    tracer = provider.get_tracer("page")
    url = f"{server.ws_url}/ws/sessions/"
    token = server.create_token("alice")
    async with SessionClient(url, token=token, get_traceparent=get_traceparent) as page:
        events = page.events()
        with tracer.start_as_current_span("ask") as span:
            trace_id = trace.format_trace_id(span.get_span_context().trace_id)
            await page.request({"text": "what comes back from a worker"})
            async with asyncio.timeout(scale(30)):
                async for event in events:
                    entry = getattr(event, "entry", None)
                    if entry is not None and (entry.offset, entry.state) == WRITTEN:
                        break
        await asyncio.to_thread(provider.force_flush)
        await wait_until(lambda: has_steps(receiver.of_trace(trace_id)))
    await asyncio.to_thread(provider.shutdown)
    return receiver.of_trace(trace_id)


def has_steps(spans: list[ReceivedSpan]) -> bool:
    """Return True once each step has its span."""
    return {*STEPS} <= {(one.service, one.name) for one in spans}
