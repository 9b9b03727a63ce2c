"""Make the messages by which a client asks something of its session."""

from abc import ABC, abstractmethod
from typing import Any

from connections.client.outbox import Ack
from connections.client.transcript import Transcript


class Requests(ABC):
    """
    The messages of a client; each is sent again until the server settles it.

    All methods raise RequestFailed if the message is not recorded; `code` says why.
    A cancelled call removes its message from the queue.
    """

    _transcript: Transcript

    async def request(
        self,
        content: Any,
        *,
        answer: bool = True,
        metadata: dict[str, Any] | None = None,
    ) -> Ack:
        """
        Send a message and wait until it is recorded.

        Without `answer` no responder answers it. A responder can read `metadata`,
        an object of at most 4096 bytes of JSON, which the log does not keep.
        Older servers ignore both.
        """
        message = {"type": "message", "data": content}
        if not answer:
            message["answer"] = False
        return await self._ask(_with(message, metadata=metadata))

    async def regenerate(
        self, offset: int, *, metadata: dict[str, Any] | None = None
    ) -> Ack:
        """
        Answer a message again; return the offset of the new answer.

        `offset` is that of an answer that has ended. The entry of the new one names it
        in `replaces`. Older servers do not know this message.
        """
        message = {"type": "regenerate", "offset": offset}
        epoch = self._transcript.epoch
        return await self._ask(_with(message, epoch=epoch, metadata=metadata))

    async def approve(self, offset: int, part: str, *, note: str | None = None) -> Ack:
        """
        Approve a tool call that waits for a person; wait until that is recorded.

        `offset` is that of the answer, `part` the id of the call, whose state is
        `awaiting_approval`. The error is `conflict` if it was decided otherwise, and
        `not_found` if it no longer waits.
        """
        return await self._decide("approve", offset, part, note)

    async def deny(self, offset: int, part: str, *, note: str | None = None) -> Ack:
        """Deny a tool call that waits for a person, as approve() approves it."""
        return await self._decide("deny", offset, part, note)

    async def _decide(self, kind: str, offset: int, part: str, note: str | None) -> Ack:
        message = {"type": kind, "offset": offset, "part": part}
        return await self._ask(_with(message, note=note, epoch=self._transcript.epoch))

    @abstractmethod
    async def _ask(self, content: dict[str, Any]) -> Ack:
        """Send a message until the server settles it; return its ack."""


def _with(message: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Return a message with the options that are given."""
    given = {name: one for name, one in options.items() if one is not None}
    return {**message, **given}
