"""Answers whose texts a test knows beforehand, and a record of who gave them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sessions_history.responders import HistoryMessage, ResponderFailed
from tests.simulation.stores import SimulatedDatabase


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How an answer goes."""

    pieces: int = 3
    pause_seconds: float = 0.05
    failure: Exception | None = None
    """What the responder raises after the last piece."""
    swallows: bool = False
    """True if it ignores that it is cancelled."""


PLANS = {
    "quick": Plan(pieces=2, pause_seconds=0),
    "slow": Plan(pieces=8, pause_seconds=0.6),
    "endless": Plan(pieces=100_000, pause_seconds=1),
    "silent": Plan(pieces=1, pause_seconds=3),
    "empty": Plan(pieces=0),
    "fails": Plan(failure=ResponderFailed("no answer today")),
    "breaks": Plan(failure=RuntimeError("a fault of the responder")),
    "stubborn": Plan(pieces=40, pause_seconds=0.5, swallows=True),
}


def make_piece(number: int, count: int) -> str:
    """Return one piece of the answer to a message; no two are equal."""
    return f"<{number}.{count} \N{SNOWMAN}>"


def is_text_of(number: int, plan: Plan, text: str, *, is_whole: bool) -> bool:
    """Return True if a text is the answer to a message, or its beginning."""
    expected = ""
    for count in range(plan.pieces):
        if len(expected) > len(text):
            break
        expected += make_piece(number, count)
    return expected == text if is_whole else expected.startswith(text)


@dataclass(slots=True, kw_only=True)
class Answering:
    """One call of a responder."""

    number: int
    responder: "PlannedResponder"
    began_at: float
    pieces: int = 0
    is_open: bool = True

    @property
    def is_undisturbed(self) -> bool:
        """Whether it goes on, and nothing has disturbed its node since it began."""
        responder = self.responder
        is_alive = self.is_open and not responder.is_dead
        return is_alive and self.began_at > responder.database.disturbed_at


@dataclass(slots=True)
class PlannedResponder:
    """Answers each message by the plan that it names."""

    calls: list[Answering]
    """The calls of all nodes."""
    database: SimulatedDatabase
    """The database of its node."""
    is_dead: bool = False
    """True if the process of the node was killed."""
    _forever: asyncio.Event = field(default_factory=asyncio.Event)

    async def respond(
        self, message: Any, history: Sequence[HistoryMessage]
    ) -> AsyncIterator[str]:
        plan = PLANS[message["plan"]]
        call = Answering(
            number=message["number"],
            responder=self,
            began_at=asyncio.get_running_loop().time(),
        )
        self.calls.append(call)
        try:
            for count in range(plan.pieces):
                try:
                    await asyncio.sleep(plan.pause_seconds)
                except asyncio.CancelledError:
                    if self.is_dead or not plan.swallows:
                        raise
                if self.is_dead:
                    await self._forever.wait()
                call.pieces += 1
                yield make_piece(call.number, count)
            if plan.failure is not None:
                raise plan.failure
        finally:
            call.is_open = False
