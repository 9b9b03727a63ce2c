"""Answers that ask a person about a tool call, and the person who decides."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from connections.node.node import Node
from sessions_history.decisions import Decision
from sessions_history.log import get_log
from sessions_history.models import HistoryEntry
from sessions_history.parts import Part
from sessions_history.responders import AnswerContext, HistoryMessage
from tests.sessions_history.talks import Talk, talk

V2 = ("orchestra.v2",)
QUICK = {"node": {"node_timeout_seconds": 1}}
ARGUMENTS = '{"order":7}'


class Careful:
    """Asks before it refunds, and says what became of it."""

    is_resumable = True

    def __init__(self, timeout_seconds: float | None = None) -> None:
        self.decisions: list[Decision] = []
        self.contexts: list[AnswerContext] = []
        self.has_left = False
        """The wait for a person is over."""
        self._timeout_seconds = timeout_seconds

    async def respond(
        self, message: Any, history: Sequence[HistoryMessage], context: AnswerContext
    ) -> AsyncIterator[str | Part]:
        self.contexts.append(context)
        if not context.parts:
            yield "I ask. "
            yield Part("tool_call", id="c1", name="refund", arguments=ARGUMENTS)
        try:
            decision = await context.approval(
                "c1", timeout_seconds=self._timeout_seconds
            )
        finally:
            self.has_left = True
        self.decisions.append(decision)
        if decision.is_approved:
            yield Part("tool_call", id="c1", state="done", result={"refunded": 7})
        yield f"It is {decision.state}."


def set_up(node: Node, **options: Any) -> Careful:
    responder = get_log(node).responder = Careful(**options)
    assert isinstance(responder, Careful)
    return responder


async def receive_state(client: Talk, state: str, part_id: str = "c1") -> Any:
    """Return the change after which a call has a state."""
    while True:
        message = await client.receive_type("delta", "entry")
        for part in message.get("parts", ()):
            if part["id"] == part_id and part.get("state") == state:
                return part


async def ask_and_leave(node: Node) -> str:
    """Let a call of a new session wait for a person; return the session."""
    async with talk(node, subprotocols=V2) as alice:
        await alice.say({"text": "my money!"})
        await receive_state(alice, "awaiting_approval")
        return alice.session_id


async def receive_end(client: Talk, offset: int = 2) -> str:
    while True:
        message = await client.receive_type("state", "entry")
        if message["offset"] == offset and message["state"] != "streaming":
            return str(message["state"])


async def decide(client: Talk, kind: str, number: int = 1, **more: Any) -> Any:
    """Approve or deny, and return the ack or the error."""
    message_id = f"deciding-page-{number}"
    fields: dict[str, Any] = {"offset": 2, "part": "c1", **more}
    await client.send(type=kind, id=message_id, **fields)
    while True:
        reply = await client.receive_type("ack", "error")
        if reply["id"] == message_id:
            return reply


async def read_first_call() -> dict[str, Any]:
    """Return the first part of the only answer, which has ended."""
    entry = await HistoryEntry.objects.aget(offset=2)
    call: dict[str, Any] = json.loads(entry.parts.partition("\n")[0])
    return call
