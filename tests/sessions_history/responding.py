"""Performers that do what a test says."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from sessions_history.parts import Part
from sessions_history.responders import (
    AnswerContext,
    HistoryMessage,
    ResponderFailed,
)


class Scripted:
    """Answers with what a test puts into its queue: pieces, an error, None for done."""

    def __init__(self) -> None:
        self.script: asyncio.Queue[str | Part | BaseException | None] = asyncio.Queue()
        self.asked: list[tuple[Any, Sequence[HistoryMessage]]] = []
        self.closed = 0

    async def respond(
        self, message: Any, history: Sequence[HistoryMessage]
    ) -> AsyncIterator[str | Part]:
        self.asked.append((message, history))
        try:
            while (piece := await self.script.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            self.closed += 1

    def play(self, *pieces: str | Part | BaseException | None) -> None:
        for piece in pieces:
            self.script.put_nowait(piece)


class Reverse:
    """Answers with the message's text, reversed, in two pieces."""

    async def respond(
        self, message: Any, history: Sequence[HistoryMessage]
    ) -> AsyncIterator[str]:
        if not isinstance(message, dict) or "text" not in message:
            raise ResponderFailed("a message has a text")
        text = message["text"][::-1]
        yield text[: len(text) // 2]
        yield text[len(text) // 2 :]


class Contextual:
    """Keeps the context of each message, and answers once it is released."""

    def __init__(self) -> None:
        self.contexts: list[AnswerContext] = []
        self.released = asyncio.Event()
        self.cancelled: list[bool] = []

    async def respond(
        self, message: Any, history: Sequence[HistoryMessage], context: AnswerContext
    ) -> AsyncIterator[str]:
        self.contexts.append(context)
        try:
            await self.released.wait()
            yield "answer"
        finally:
            self.cancelled.append(context.stream.is_cancelled)
