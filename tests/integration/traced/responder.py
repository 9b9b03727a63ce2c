"""Hand the messages of clients to a worker, over the channel layer."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from channels.layers import get_channel_layer

from connections.telemetry.carrier import get_traceparent
from sessions_history.responders import AnswerContext, HistoryMessage

JOBS = "jobs"
"""The channel that the worker reads."""


class Delegating:
    """Answers nothing itself."""

    async def respond(
        self, message: Any, history: Sequence[HistoryMessage], context: AnswerContext
    ) -> AsyncIterator[str]:
        layer: Any = get_channel_layer()
        job = {"session": context.session_id, "question": message["text"]}
        trace = get_traceparent()
        await layer.send(JOBS, {"type": "job", **job, "traceparent": trace})
        yield "…"
