"""The responder of the servers against which adapters are tested."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from sessions_history.parts import Part
from sessions_history.responders import (
    AnswerContext,
    HistoryMessage,
    ResponderFailed,
)

EVERYTHING: list[str | Part] = [
    "Wait. ",
    Part("reasoning", id="r", author="researcher", text="I look "),
    Part("reasoning", id="r", author="researcher", text="it up."),
    Part("tool_call", id="c", author="researcher", name="search", arguments='{"q":'),
    Part("tool_call", id="c", arguments='"tides"}'),
    Part("tool_call", id="c", state="running"),
    Part("tool_call", id="c", state="done", result=["the moon"]),
    Part("tool_call", id="d", name="weigh", state="error", result="no scales"),
    Part("text", author="writer", text="The moon 🌊 "),
    Part("text", author="writer", text="does."),
    Part("source", id="s", url="https://example.org/tides", title="Tides"),
    Part(
        "file",
        id="f",
        url="https://example.org/moon.png",
        name="moon.png",
        media_type="image/png",
    ),
    Part("error", id="e", author="critic", message="no second source"),
    Part("custom", id="k", name="mood", data={"calm": True}),
    Part("usage", id="u", author="writer", input_tokens=7, output_tokens=9, model="m"),
]
"""Parts of all kinds, by several agents."""


class Everything:
    """
    Answer with parts of all kinds, and fail after them if the message is "fail".

    A message "pay a b" makes it ask a person about the calls "a" and "b" at once.
    """

    async def respond(
        self, message: Any, history: Sequence[HistoryMessage], context: AnswerContext
    ) -> AsyncIterator[str | Part]:
        command, *calls = message["text"].split()
        if command == "pay":
            async for piece in _pay(calls, context):
                yield piece
            return
        for piece in EVERYTHING:
            yield piece
            await asyncio.sleep(context.metadata.get("pause_seconds", 0))
        if message["text"] == "fail":
            raise ResponderFailed("out of luck")


async def _pay(calls: list[str], context: AnswerContext) -> AsyncIterator[str | Part]:
    yield "May I? "
    for call in calls:
        yield Part("tool_call", id=call, name="pay", arguments='{"to":"' + call + '"}')
    yield Part("usage", id="before", input_tokens=1)
    decisions = await asyncio.gather(*map(context.approval, calls))
    for call, decision in zip(calls, decisions, strict=True):
        if decision.is_approved:
            yield Part("tool_call", id=call, state="done", result=f"paid {call}")
    yield Part("usage", id="after", input_tokens=2)
    yield ", ".join(decision.state for decision in decisions)
