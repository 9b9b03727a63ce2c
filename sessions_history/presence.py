"""Show a connection who is present in its session, and who types there."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from connections.exceptions import PresenceUnavailable
from connections.hub.connection import LiveConnection
from connections.node.node import Node
from connections.presence.base import ONLINE, SESSIONS
from connections.presence.rooms import JoinedRoom, RoomEvent, find_member, make_gap
from sessions_history.fan_out import FanOut

_REPEAT_SECONDS = 2
"""The least time between two equal events of one connection."""

_TYPING = "typing"
_POSTED = "posted_typing"
_LIST: dict[str, Any] = {}
"""In place of an event: the list of the members, as it is once it is sent."""

_MOST_WAITING = 100
"""The events that may wait for a slow client; instead of more it gets a gap."""

Event = Mapping[str, Any]
SendText = Callable[[str], Awaitable[None]]


def name_room(session_id: str) -> str:
    """Return the room of a session, as for connections.presence."""
    return f"{SESSIONS}{session_id}"


class TypingEvents:
    """
    The events of typing in the sessions that are attached on one node.

    They go to the connections of a session on all nodes, and are not stored. One
    that is lost is made up for by the next, or by the end of its time.
    """

    def __init__(self, fan_out: FanOut) -> None:
        self._fan_out = fan_out
        self._listeners: dict[str, dict[str, Callable[[Event], None]]] = {}
        fan_out.listeners[_TYPING] = self._deliver
        fan_out.listeners[_POSTED] = self._pass_on

    def join(
        self, session_id: str, connection_id: str, receive: Callable[[Event], None]
    ) -> None:
        """Call back with each event of the others, and what the client posts."""
        self._listeners.setdefault(session_id, {})[connection_id] = receive

    def leave(self, session_id: str, connection_id: str) -> None:
        """Undo join(); a second call does nothing."""
        listeners = self._listeners.get(session_id, {})
        listeners.pop(connection_id, None)
        if not listeners:
            self._listeners.pop(session_id, None)

    def send(self, session_id: str, event: Event) -> None:
        """Send an event to the other connections of a session, on all nodes."""
        self._deliver(session_id, event)
        self._fan_out.send_event(session_id, _TYPING, event)

    def post(self, session_id: str, event: Event) -> None:
        """
        Pass an event that a client posted to its connection, on whichever node.

        The connection knows its member, and sends what is its own to the others. An
        event whose connection is its member's name is of a client that has none.
        """
        if event["connection"] == event["member"]:
            self.send(session_id, event)
        elif not self._pass_on(session_id, event):
            self._fan_out.send_event(session_id, _POSTED, event)

    def _pass_on(self, session_id: str, event: Event) -> bool:
        """Give a connection of this node its event; return False without it."""
        receive = self._listeners.get(session_id, {}).get(event["connection"])
        if receive is not None:
            receive(event)
        return receive is not None

    def _deliver(self, session_id: str, event: Event) -> None:
        for connection_id, receive in list(self._listeners.get(session_id, {}).items()):
            if connection_id != event["connection"]:
                receive(event)


class SessionPresence:
    """
    The presence of one connection in its session.

    Its owner closes it. Events are sent in a task of their own, so that a client
    that reads slowly delays nobody. A client that cannot ask who is present gets the
    list unasked (is_listed): at the start and after each gap.
    """

    def __init__(
        self,
        typing: TypingEvents,
        *,
        session_id: str,
        connection: LiveConnection,
        node: Node,
        send: SendText,
        is_listed: bool = False,
    ) -> None:
        self.room = name_room(session_id)
        self.joined_room = JoinedRoom(room=self.room, data="{}")
        self.member = find_member(connection)
        self.connection_id = f"{connection.connection_id}:{session_id}"
        """The name under which the connection is in the room of this session."""
        self._typing = typing
        self._session_id = session_id
        self._connection = connection
        self._node = node
        self._send = send
        self._is_listed = is_listed
        self._listing: asyncio.TimerHandle | None = None
        self._is_typing = False
        self._sent_at = float("-inf")
        self._waiting: dict[object, Event] = {}
        self._sending: asyncio.Task[None] | None = None

    def start(self, *, is_own_room: bool) -> None:
        """
        Begin to receive who types; the client has its hello.

        The room of the connection's path is joined by its accept. Any other is joined
        here: is_own_room.
        """
        self._typing.join(
            self._session_id, self._connection.connection_id, self._receive
        )
        if is_own_room:
            rooms = [JoinedRoom(room=ONLINE, data="{}"), self.joined_room]
            self._node.presence.join(self.member, rooms, self)
        if self._is_listed:
            self._list()

    def close(self) -> None:
        """Stop typing and receiving."""
        self.set_typing(is_typing=False)
        self._typing.leave(self._session_id, self._connection.connection_id)
        self._node.presence.leave(self.connection_id)
        self._waiting.clear()
        if self._listing is not None:
            self._listing.cancel()
        if self._sending is not None:
            self._sending.cancel()

    async def describe(self) -> dict[str, Any]:
        """Return the message that lists the members; None where they are unknown."""
        try:
            found = await self._node.presence.get_present(self.room)
        except PresenceUnavailable:
            return {"type": "present", "members": None}
        members = [
            {"member": member, "data": json.loads(data)}
            for member, data in sorted(found.items())
        ]
        return {"type": "present", "members": members}

    def set_typing(self, *, is_typing: bool) -> None:
        """Send the other connections whether this one types, unless they know."""
        now = self._node.clock()
        if is_typing == self._is_typing and not (
            is_typing and now - self._sent_at >= _REPEAT_SECONDS
        ):
            return
        self._is_typing, self._sent_at = is_typing, now
        event = {
            "type": "typing",
            "member": self.member,
            "connection": self._connection.connection_id,
            "active": is_typing,
        }
        self._typing.send(self._session_id, event)

    def receive(self, event: RoomEvent) -> None:
        """Start to send an event of the room, without waiting."""
        self._enqueue(object(), event.message)

    def _receive(self, event: Event) -> None:
        is_own = event["member"] == self.member
        if event["connection"] == self._connection.connection_id:
            # The client posted it; another one may have named this connection.
            if is_own:
                self._connection.last_activity = self._node.clock()
                self.set_typing(is_typing=event["active"])
        elif not (is_own and event["connection"] == self.member):
            self._enqueue(event["connection"], event)

    def _list(self) -> None:
        self._enqueue("present", _LIST)

    def _enqueue(self, key: object, event: Event) -> None:
        self._waiting[key] = event
        if len(self._waiting) > _MOST_WAITING:
            # The client asks who is present when it learns of the gap.
            self._waiting = {self.room: make_gap(self.room).message}
        if self._sending is None:
            sending = self._node.hub.sending
            self._sending = sending.start(self._send_waiting(), "send who types")

    async def _send_waiting(self) -> None:
        try:
            while self._waiting:
                event = self._waiting.pop(next(iter(self._waiting)))
                if event is _LIST:
                    event = await self.describe()
                    if event["members"] is None:
                        beat_seconds = self._node.config.node.beat_seconds
                        loop = asyncio.get_running_loop()
                        self._listing = loop.call_later(beat_seconds, self._list)
                await self._send(json.dumps(event))
                if self._is_listed and event["type"] == "presence.gap":
                    self._list()
        finally:
            self._sending = None
