"""Responders for the servers under test."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from sessions_history.parts import Part
from sessions_history.responders import AnswerContext, HistoryMessage


class Counting:
    """Count to the message's `count`; answer other messages with nothing."""

    async def respond(
        self, message: Any, history: Sequence[HistoryMessage]
    ) -> AsyncIterator[str]:
        for number in range(message.get("count", 0)):
            await asyncio.sleep(message.get("pause_seconds", 0.05))
            yield f"{number} 👩‍👩‍👧 e\u0301 "


QUERY = '{"query":"' + "tide 🌊 " * 20 + '"}'


class Calling:
    """Think, write the arguments of a tool call piece by piece, and answer."""

    async def respond(
        self, message: Any, history: Sequence[HistoryMessage]
    ) -> AsyncIterator[str | Part]:
        yield "Wait. "
        for word in ("I ", "look ", "it up."):
            yield Part("reasoning", id="r", author="researcher", text=word)
        yield Part("tool_call", id="c", author="researcher", name="search")
        for character in QUERY:
            await asyncio.sleep(message["pause_seconds"])
            yield Part("tool_call", id="c", arguments=character)
        yield Part("tool_call", id="c", state="done", result=["the moon"])
        yield "The moon."
        yield Part("usage", id="u", input_tokens=7, output_tokens=9)


class Playing:
    """Yield the parts that a message lists as JSON; "wait" waits for a stop."""

    async def respond(
        self, message: Any, history: Sequence[HistoryMessage], context: AnswerContext
    ) -> AsyncIterator[str | Part]:
        for one in json.loads(message["text"]):
            if one == "wait":
                await context.stream.cancelled()
            elif isinstance(one, str):
                yield one
            else:
                type_, fields = one
                yield Part(type_, **fields)


class Careful:
    """Ask a person before a refund, and go on where another node has left off."""

    is_resumable = True

    async def respond(
        self, message: Any, history: Sequence[HistoryMessage], context: AnswerContext
    ) -> AsyncIterator[str | Part]:
        order = message["order"]
        if not context.parts:
            arguments = json.dumps({"order": order})
            yield Part("tool_call", id="c1", name="refund", arguments=arguments)
        decision = await context.approval("c1")
        if decision.is_approved:
            yield Part("tool_call", id="c1", state="done", result={"refunded": order})
        yield f"Order {order}: {decision.state}."
