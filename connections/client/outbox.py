"""Keep messages until an ack or an error settles them."""

import asyncio
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from connections import close_codes
from connections.client.reconnect import Ended

TOO_BIG = (1009, close_codes.MESSAGE_TOO_BIG.code)
"""Close codes after which the message in flight is not sent again."""

_MAX_TIMEOUTS = 4
_DECISIONS = ("approve", "deny")


class RequestFailed(Exception):
    """
    A message was not recorded.

    `code` is the server's, or queue_full, timeout, closed, message_too_big;
    `retry_after_seconds` is when the server wants to be asked again, if it says so.
    """

    def __init__(
        self,
        code: str,
        message: str,
        ref: str | None = None,
        *,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(code, message, ref)
        self.code = code
        self.message = message
        self.ref = ref
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """The server has committed a message."""

    message_id: str
    offset: int


@dataclass(slots=True, kw_only=True, eq=False)
class Item:
    """A message without an ack or an error yet."""

    message_id: str
    text: str
    is_decision: bool
    """True if it decides on a tool call."""
    done: asyncio.Future[Ack]
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    """True once the message is settled or has to be sent again."""
    timeouts: int = 0


class Outbox:
    """
    A bounded queue of unsettled messages, in order.

    Their ids make a second sending harmless.
    """

    def __init__(self, limit: int, get_traceparent: Callable[[], str] = str) -> None:
        self._limit = limit
        self._get_traceparent = get_traceparent
        self._prefix = secrets.token_hex(8)
        self._count = 0
        self._items: dict[str, Item] = {}
        self._has_items = asyncio.Event()

    def __len__(self) -> int:
        return len(self._items)

    async def next(self) -> Item:
        """
        Wait for an unsettled message and return a decision, or else the oldest.

        The server may refuse an older message while an answer waits for a decision.
        """
        while not self._items:
            await self._has_items.wait()
        return min(self._items.values(), key=lambda item: not item.is_decision)

    def add(
        self,
        content: dict[str, Any],
        max_bytes: int | None = None,
    ) -> Item:
        """
        Add a message: its type and its fields, without an id.

        Raises:
            RequestFailed: queue_full or message_too_big.
            ValueError: it is not JSON.
        """
        if len(self._items) >= self._limit:
            raise RequestFailed("queue_full", f"{self._limit} messages wait already")
        self._count += 1
        message_id = f"{self._prefix}-{self._count}"
        message = {"type": content["type"], "id": message_id, **content}
        if traceparent := self._get_traceparent():
            message["traceparent"] = traceparent
        text = json.dumps(message, allow_nan=False, ensure_ascii=False)
        try:
            size = len(text.encode())
        except UnicodeEncodeError as exc:
            raise ValueError("a lone surrogate is not JSON") from exc
        if max_bytes is not None and size > max_bytes:
            error = f"{size} bytes; {max_bytes} are allowed"
            raise RequestFailed("message_too_big", error)
        item = Item(
            message_id=message_id,
            text=text,
            is_decision=content["type"] in _DECISIONS,
            done=asyncio.get_running_loop().create_future(),
        )
        self._items[message_id] = item
        self._has_items.set()
        return item

    def acknowledge(self, message_id: str, offset: int) -> None:
        """Settle a message as recorded."""
        item = self.forget(message_id)
        if item is not None and not item.done.done():
            item.done.set_result(Ack(message_id=message_id, offset=offset))

    def fail(self, message_id: str | None, error: RequestFailed) -> bool:
        """Settle a message as failed; return False if it is not in the queue."""
        item = self.forget(message_id)
        if item is not None and not item.done.done():
            item.done.set_exception(error)
        return item is not None

    def fail_all(self, error: RequestFailed) -> None:
        """Settle every message as failed."""
        for message_id in list(self._items):
            self.fail(message_id, error)

    def on_timeout(self, item: Item) -> None:
        """Count a missing answer; fail the message after too many."""
        item.timeouts += 1
        if item.timeouts > _MAX_TIMEOUTS:
            error = RequestFailed("timeout", "the server does not answer")
            self.fail(item.message_id, error)

    def forget(self, message_id: str | None) -> Item | None:
        """Remove a message."""
        item = self._items.pop(message_id or "", None)
        if item is not None:
            item.answered.set()
        if not self._items:
            self._has_items.clear()
        return item


def make_closed(ended: Ended) -> RequestFailed:
    """Return the failure of a message whose connection has ended for good."""
    return RequestFailed("closed", f"the connection has ended: {ended.reason}")
