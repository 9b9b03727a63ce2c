"""Deliver the messages of groups to mailboxes, in order and in slices."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from connections.asgi import Message
from connections.layers.broadcast import BROADCAST, read_broadcast
from connections.layers.mailbox import HandOver, Mailbox
from connections.layers.prepared_message import PreparedMessage

_SLICE_SECONDS = 0.002

_WOKEN_AT_ONCE = 100
"""The readers that are woken in one iteration of the event loop."""

_MOST_WAITING = 1_000
"""Group messages that wait for those before them; of more than that only gaps wait."""

Put = Callable[[Mailbox, Message, asyncio.AbstractEventLoop, list[HandOver]], None]


class _Delivery:
    """One message on its way to the mailboxes of a group."""

    __slots__ = ("done", "members", "message", "prepared")

    def __init__(self, message: Message, members: Sequence[Mailbox]) -> None:
        self.members: Iterator[Mailbox] = iter(members)
        self.message = message
        self.prepared: PreparedMessage | None = None
        self.done: asyncio.Future[None] | None = None
        if message.get("type") == BROADCAST:
            self.prepared = read_broadcast(message)
            if self.prepared is None:
                self.members = iter(())
            # Those that must wait share the prepared message.
            self.message = {"type": BROADCAST, "prepared": self.prepared}


class Deliveries:
    """
    The group messages that one event loop delivers.

    A broadcast goes past the mailbox of a member that waits for a message, straight
    to its client. After two milliseconds the event loop runs other tasks, and later
    messages wait until all members have the ones before.

    A connection that waits is woken one iteration of the event loop later: a message
    of its client that arrives in the same moment is handled first, as in Channels.
    """

    __slots__ = ("_handed_over", "_put", "_waiting")

    def __init__(self, put: Put) -> None:
        self._put = put
        self._handed_over: list[HandOver] = []
        self._waiting: deque[_Delivery] = deque()

    @property
    def is_full(self) -> bool:
        """Return True if too many messages wait."""
        return len(self._waiting) >= _MOST_WAITING

    def add(
        self, message: Message, members: Sequence[Mailbox]
    ) -> asyncio.Future[None] | None:
        """Deliver a message; return a future if it takes more than a moment."""
        delivery = _Delivery(message, members)
        self._waiting.append(delivery)
        if len(self._waiting) == 1:
            self._run(asyncio.get_running_loop())
            if not self._waiting:
                return None
        delivery.done = asyncio.get_running_loop().create_future()
        return delivery.done

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver for two milliseconds, and continue after other tasks."""
        ends_at = time.perf_counter() + _SLICE_SECONDS
        try:
            while self._waiting:
                delivery = self._waiting[0]
                for mailbox in delivery.members:
                    self._deliver(delivery, mailbox, loop)
                    if time.perf_counter() > ends_at:
                        return
                self._waiting.popleft()
                if delivery.done is not None and not delivery.done.done():
                    delivery.done.set_result(None)
        finally:
            # Also after an exception: it is that of one member.
            if self._waiting:
                loop.call_soon(self._run, loop)
            if self._handed_over:
                handed_over, self._handed_over = self._handed_over, []
                loop.call_soon(_hand_over, handed_over, loop)

    def _deliver(
        self, delivery: _Delivery, mailbox: Mailbox, loop: asyncio.AbstractEventLoop
    ) -> None:
        prepared = delivery.prepared
        if prepared is None or not mailbox.pass_on(prepared, loop):
            self._put(mailbox, delivery.message, loop, self._handed_over)


def _hand_over(handed_over: list[HandOver], loop: asyncio.AbstractEventLoop) -> None:
    """Wake readers with their messages, a hundred in each iteration of the loop."""
    if len(handed_over) > _WOKEN_AT_ONCE:
        loop.call_soon(_hand_over, handed_over[_WOKEN_AT_ONCE:], loop)
    for waiter, message in handed_over[:_WOKEN_AT_ONCE]:
        if not waiter.done():
            waiter.set_result(message)
