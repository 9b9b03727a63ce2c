"""python -m tests.integration.traced.worker: answer the messages of clients."""

import asyncio
from typing import Any

import django
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tests.integration.traced.provider import make_provider
from tests.integration.traced.responder import JOBS

trace.set_tracer_provider(make_provider("worker"))
django.setup()

from channels.layers import get_channel_layer  # noqa: E402

from sessions_history.writer import open_stream  # noqa: E402

READY = "ready"


async def work() -> None:
    """Answer each job in the trace that it names."""
    layer: Any = get_channel_layer()
    tracer = trace.get_tracer("worker")
    first = asyncio.create_task(layer.receive(JOBS))
    while not first.done():
        # It arrives once this process is subscribed.
        await layer.send(JOBS, {"type": READY})
        await asyncio.wait([first], timeout=0.1)
    print(READY, flush=True)
    while True:
        job = await layer.receive(JOBS)
        if job["type"] == READY:
            continue
        context = TraceContextTextMapPropagator().extract(job)
        with tracer.start_as_current_span("job", context=context):
            async with open_stream(job["session"]) as stream:
                for word in job["question"].upper().split():
                    await stream.write(f"{word} ")
                    # A model takes its time.
                    await asyncio.sleep(0.01)
            await layer.group_send("answers", {"type": "answered"})


if __name__ == "__main__":
    asyncio.run(work())
