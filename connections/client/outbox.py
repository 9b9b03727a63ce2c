"""Messages on their way: each is sent until an ack or an error settles it."""

import asyncio
import json
import secrets
from dataclasses import dataclass, field
from typing import Any

_MAX_TIMEOUTS = 4


class RequestFailed(Exception):
    """
    A message was not recorded.

    `code` is the server's, or queue_full, timeout, closed, message_too_big.
    """

    def __init__(self, code: str, message: str, ref: str | None = None) -> None:
        super().__init__(code, message, ref)
        self.code = code
        self.message = message
        self.ref = ref

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """The server has recorded a message."""

    message_id: str
    offset: int


@dataclass(slots=True, kw_only=True, eq=False)
class Item:
    """A message that is not settled."""

    message_id: str
    text: str
    done: asyncio.Future[Ack]
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    """Settled, or to be sent again later."""
    timeouts: int = 0


class Outbox:
    """
    What is not yet recorded, in its order and bounded.

    The ids make sending again harmless.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._prefix = secrets.token_hex(8)
        self._count = 0
        self._items: dict[str, Item] = {}
        self._has_items = asyncio.Event()

    def __len__(self) -> int:
        return len(self._items)

    async def oldest(self) -> Item:
        """Wait for a message that is not settled and return the oldest."""
        while not self._items:
            await self._has_items.wait()
        return next(iter(self._items.values()))

    def add(self, content: Any, max_bytes: int | None = None) -> Item:
        """
        Take a message in.

        Raises:
            RequestFailed: queue_full or message_too_big.
            ValueError: it is not JSON.
        """
        if len(self._items) >= self._limit:
            raise RequestFailed("queue_full", f"{self._limit} messages wait already")
        self._count += 1
        message_id = f"{self._prefix}-{self._count}"
        message = {"type": "message", "id": message_id, "data": content}
        text = json.dumps(message, allow_nan=False)
        if max_bytes is not None and len(text) > max_bytes:
            error = f"{len(text)} bytes; {max_bytes} are allowed"
            raise RequestFailed("message_too_big", error)
        item = Item(
            message_id=message_id,
            text=text,
            done=asyncio.get_running_loop().create_future(),
        )
        self._items[message_id] = item
        self._has_items.set()
        return item

    def acknowledge(self, message_id: str, offset: int) -> None:
        """Settle a message: it is recorded."""
        item = self.forget(message_id)
        if item is not None and not item.done.done():
            item.done.set_result(Ack(message_id=message_id, offset=offset))

    def fail(self, message_id: str | None, error: RequestFailed) -> bool:
        """Settle a message: it is not recorded. False where it is not here."""
        item = self.forget(message_id)
        if item is not None and not item.done.done():
            item.done.set_exception(error)
        return item is not None

    def fail_all(self, error: RequestFailed) -> None:
        """Settle every message."""
        for message_id in list(self._items):
            self.fail(message_id, error)

    def on_timeout(self, item: Item) -> None:
        """Count an answer that did not come; too many of them are a failure."""
        item.timeouts += 1
        if item.timeouts > _MAX_TIMEOUTS:
            error = RequestFailed("timeout", "the server does not answer")
            self.fail(item.message_id, error)

    def forget(self, message_id: str | None) -> Item | None:
        """Take a message out, whatever becomes of it."""
        item = self._items.pop(message_id or "", None)
        if item is not None:
            item.answered.set()
        if not self._items:
            self._has_items.clear()
        return item
