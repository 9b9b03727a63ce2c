"""
Write answers, as text or as parts, and measure how long each piece is on its way.

benchmarks.sessions uses it. The server answers by its responder here; a producer in
another process is

    python -m benchmarks.answers text PIECES SESSION [SESSION ...]

which prints the CPU seconds that its writing took. Each piece has the moment of its
writing, by a clock that all processes of a machine share; the load generator reads it.
"""

import asyncio
import itertools
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.appends import AppendSteps, receive_frames
from connections.capacity.load.client import Client
from connections.capacity.load.frames import TEXT, build_frame
from connections.capacity.load.generator import Answer, main, summarise

if TYPE_CHECKING:
    from sessions_history.parts import Part

KINDS = ("text", "parts")
PIECES_PER_SECOND = 25
"""Pieces have some 40 characters each."""

_MOMENT = re.compile(rb"@(\d+\.\d{6})@")
_LATE_SECONDS = 60


async def write_pieces(kind: str, pieces: int) -> "AsyncIterator[str | Part]":
    """Yield an answer in its time: reasoning, a tool call and text, or text alone."""
    from sessions_history.parts import REASONING, TOOL_CALL, Part

    for number in range(pieces):
        await asyncio.sleep(1 / PIECES_PER_SECOND)
        text = f"@{time.monotonic():.6f}@ and some words of it"
        if kind == "text" or number >= pieces // 2:
            yield text
        elif number < pieces // 4:
            yield Part(REASONING, text=text)
        else:
            name = {"name": "search"} if number == pieces // 4 else {}
            yield Part(TOOL_CALL, id="call", arguments=text, **name)


class Responder:
    """Answers in the kind and number of pieces that the message asks for."""

    async def respond(
        self, message: Any, history: Sequence[Any]
    ) -> "AsyncIterator[str | Part]":
        """Yield the pieces of an answer."""
        async for piece in write_pieces(**message):
            yield piece


class Watched:
    """A session on a connection of its own, and the pieces that have arrived."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.session = ""
        self.has_ended = False
        self.delays: dict[bytes, float] = {}
        """The seconds on their way, by the moments of the pieces."""
        self._numbers = itertools.count(1)
        receive_frames(client, self._take)

    def ask(self, **content: Any) -> None:
        """Send a message of the session."""
        message_id = f"{self.session}-{next(self._numbers)}"
        message = {"type": "message", "id": message_id, "data": {}, **content}
        self.client.socket.send(build_frame(TEXT, json.dumps(message).encode()))

    def _take(self, payload: bytes) -> None:
        now = time.monotonic()
        for moment in _MOMENT.findall(payload):
            self.delays.setdefault(moment, now - float(moment))
        message = json.loads(payload)
        if message["type"] == "hello":
            self.session = message["session"]
        elif message["type"] == "error":
            raise ConnectionError(str(message))
        elif message.get("from") == "server" or message["type"] == "state":
            self.has_ended = message["state"] != "streaming"
            if message["state"] not in ("streaming", "done"):
                raise ConnectionError(str(message))


class AnswerSteps(AppendSteps):
    """The steps of a generator that watches answers."""

    def __init__(self, host: str, port: int, dialect: str, path: str) -> None:
        super().__init__(host, port, dialect, path)
        self._watched: list[Watched] = []

    def begin_watched(self, count: int) -> Answer:
        """Open sessions on connections of their own, with a message in each."""
        protocol = "Sec-WebSocket-Protocol: orchestra.v2\r\n"
        self._watched = [Watched(self._connect("new/", protocol)) for _ in range(count)]
        self._wait(lambda: all(one.session for one in self._watched))
        for one in self._watched:
            one.ask(answer=False)
        return {"sessions": [one.session for one in self._watched]}

    def ask(self, kind: str, pieces: int) -> Answer:
        """Ask for an answer of a kind in each session."""
        for one in self._watched:
            one.ask(data={"kind": kind, "pieces": pieces})
        return {}

    def watch(self, pieces: int) -> Answer:
        """Wait for the ends of the answers; return how long their pieces took."""
        seconds = pieces / PIECES_PER_SECOND
        self._wait(lambda: all(one.has_ended for one in self._watched), seconds)
        delays = [delay for one in self._watched for delay in one.delays.values()]
        for one in self._watched:
            if len(one.delays) != pieces:
                raise ConnectionError(f"{len(one.delays)} of {pieces} pieces arrived")
            one.delays, one.has_ended = {}, False
        return {"count": len(delays), **summarise(delays)}

    def _wait(self, is_done: Callable[[], bool], seconds: float = 0) -> None:
        deadline = time.monotonic() + seconds + _LATE_SECONDS
        while not is_done():
            self.clients.poll(0.1)
            if time.monotonic() > deadline:
                raise TimeoutError("a session or the end of an answer is missing")


async def write_answers(kind: str, pieces: int, sessions: Sequence[str]) -> float:
    """Write an answer into each session; return the CPU seconds of this process."""
    from sessions_history.writer import open_stream

    async def write_one(session: str) -> None:
        async with open_stream(session) as stream:
            async for piece in write_pieces(kind, pieces):
                await stream.write(piece)

    started = time.process_time()
    await asyncio.gather(*map(write_one, sessions))
    return time.process_time() - started


if __name__ == "__main__":
    if sys.argv[1] in KINDS:
        import django

        django.setup()
        _, kind, pieces, *sessions = sys.argv
        print(asyncio.run(write_answers(kind, int(pieces), sessions)))
    else:
        main(AnswerSteps)
