"""Make one connection present, and hand the events of its rooms on."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from connections import close_codes
from connections.asgi import Message
from connections.connection.stage import Stage
from connections.hub.connection import LiveConnection
from connections.node.node import Node
from connections.presence.rooms import JoinedRoom, RoomEvent, find_member, read_rooms

_MOST_WAITING = 100
"""Events that may wait for a slow handler; one more ends the connection (4208)."""


class Sender(Protocol):
    """The part of a connection's sender that presence uses."""

    connection: LiveConnection
    stage: Stage

    async def send_own(self, message: Message) -> None:
        """Send an ASGI event that is neither counted nor activity."""


class ConnectionPresence:
    """
    The presence of one connection.

    A consumer handles an event by a method `presence_joined`, `presence_left` or
    `presence_gap`. Without the method a JSON consumer sends the event to its client,
    and any other consumer drops it. An event is no activity.
    """

    __slots__ = (
        "_consumer",
        "_deliver",
        "_node",
        "_sender",
        "_task",
        "_waiting",
        "connection_id",
    )

    def __init__(
        self,
        consumer: Any,
        sender: Sender,
        node: Node,
        deliver: Callable[[Message], Awaitable[None]],
    ) -> None:
        self.connection_id = sender.connection.connection_id
        self._consumer = consumer
        self._sender = sender
        self._node = node
        self._deliver = deliver
        self._waiting: deque[Message] = deque()
        self._task: asyncio.Task[None] | None = None

    async def read(self) -> Sequence[JoinedRoom]:
        """
        Return the rooms that the consumer names.

        Raises:
            TypeError, ValueError: it names something else.
            Refused: the room is that of the path, and the path is no room.
        """
        path = self._sender.connection.path
        return await read_rooms(self._consumer, path, self._node.config.presence)

    def join(self, rooms: Sequence[JoinedRoom]) -> None:
        """Make the connection present, from its accept to its end."""
        if rooms:
            member = find_member(self._sender.connection)
            self._node.presence.join(member, rooms, self)

    def close(self) -> None:
        """Hand no event on any longer."""
        if self._task is not None:
            self._task.cancel()

    def receive(self, event: RoomEvent) -> None:
        """Start to hand on an event, without waiting."""
        sender = self._sender
        if sender.stage is not Stage.OPEN:
            return
        if callable(getattr(self._consumer, event.method, None)):
            self._enqueue(event.message)
        elif self._consumer.is_json:
            transport = sender.connection.transport
            if transport is None or not transport.send_prepared(event.prepared):
                sending = sender.send_own(event.prepared.event.copy())
                self._node.hub.sending.start(sending, "send a presence event")

    def _enqueue(self, message: Message) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            self._waiting.clear()
            self._sender.connection.end(close_codes.SLOW_CONSUMER)
            return
        # Members share the event; its inner values are read-only.
        self._waiting.append(message.copy())
        if self._task is None:
            sending = self._node.hub.sending
            self._task = sending.start(self._hand_on(), "hand on presence events")

    async def _hand_on(self) -> None:
        try:
            while self._waiting:
                await self._deliver(self._waiting.popleft())
        finally:
            self._task = None
