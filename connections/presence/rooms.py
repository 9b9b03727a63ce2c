"""Name rooms and members, and describe who is in them."""

import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from asgiref.sync import sync_to_async
from channels.consumer import SyncConsumer
from django.utils.crypto import salted_hmac

from connections import close_codes
from connections.config.sections import PresenceConfig
from connections.credentials.identity import name_user
from connections.exceptions import Refused
from connections.hub.connection import LiveConnection
from connections.layers.prepared_message import PreparedMessage
from connections.presence.base import ONLINE, SESSIONS, Delta

_ROOM_CHARACTERS = 200
_DIGEST_CHARACTERS = 20
_MEMBERS_PER_EVENT = 200


@dataclass(frozen=True, slots=True)
class Presence:
    """A room that a connection is present in, with the public data of its client."""

    room: str
    data: Mapping[str, Any] = field(default_factory=dict)
    """A JSON object, which everyone who may see the room may read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """One client that is present in a room."""

    member: str
    """`user:<primary key>`, or `guest:<digest>` for a client without a user."""

    data: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedRoom:
    """A room of one connection, checked, with its public data as JSON."""

    room: str
    data: str


class RoomEvent:
    """Members that joined or left a room, as its consumers receive them."""

    def __init__(self, kind: str, room: str, **content: Any) -> None:
        self.room = room
        self.method = f"presence_{kind}"
        self.message = {"type": f"presence.{kind}", "room": room, **content}
        """The event; JSON consumers send it as it is."""

    @cached_property
    def prepared(self) -> PreparedMessage:
        """The message that all JSON consumers of the room share."""
        return PreparedMessage(json.dumps(self.message))


def make_events(room: str, delta: Delta) -> Iterable[RoomEvent]:
    """Yield the events of a delta; each names a bounded number of members."""
    joined = [
        {"member": member, "data": json.loads(data)}
        for member, data in delta.joined.items()
    ]
    left = [{"member": member} for member in delta.left]
    for kind, members in (("joined", joined), ("left", left)):
        for start in range(0, len(members), _MEMBERS_PER_EVENT):
            some = members[start : start + _MEMBERS_PER_EVENT]
            yield RoomEvent(kind, room, members=some)


def make_gap(room: str) -> RoomEvent:
    """Return the event that says that events of a room may be missing."""
    return RoomEvent("gap", room)


def name_member(client: Any) -> str:
    """
    Return the member that a user, or a client id, is.

    A client without a user may be an address, which others must not read.
    """
    if not isinstance(client, str):
        return name_user(client)
    if client.startswith("user:"):
        return client
    digest = salted_hmac("connections.presence", client, algorithm="sha256")
    return f"guest:{digest.hexdigest()[:_DIGEST_CHARACTERS]}"


def find_member(connection: LiveConnection) -> str:
    """Return the member that a connection makes present."""
    if connection.user_id is not None:
        return f"user:{connection.user_id}"
    return name_member(connection.client_id)


def find_user_key(member: str) -> str | None:
    """Return the text of the primary key of the user that a member is, or None."""
    kind, _, key = member.partition(":")
    return key if kind == "user" else None


async def read_rooms(
    consumer: Any, path: str, config: PresenceConfig
) -> list[JoinedRoom]:
    """
    Return the rooms that a consumer names, ONLINE included; none: not present.

    Raises:
        TypeError, ValueError: its `presence` named something else.
        Refused: it has the room of its path, and the path is no room.
    """
    named = await _ask_consumer(consumer)
    if named is None or named is False:
        return []
    if named is True:
        named = _require_path(path)
    items = [named] if isinstance(named, str | Presence | JoinedRoom) else named
    if not isinstance(items, list | tuple):
        raise TypeError(
            f"{type(consumer).__name__}.presence gave {type(named).__name__}; it gives"
            " a room, a Presence, a list of them, True or None"
        )
    if len(items) > config.max_rooms_per_connection:
        raise ValueError(
            f"{type(consumer).__name__}.presence gave {len(items)} rooms; a connection"
            f" has at most {config.max_rooms_per_connection}"
            " (presence.max_rooms_per_connection)"
        )
    found = {one.room: one for one in (_check(item, config) for item in items)}
    return [JoinedRoom(room=ONLINE, data="{}"), *found.values()]


async def _ask_consumer(consumer: Any) -> Any:
    """Return what the attribute or the method `presence` of a consumer says."""
    named = inspect.getattr_static(type(consumer), "presence")
    if not hasattr(named, "__get__"):
        return named
    method = named.__get__(consumer, type(consumer))
    if isinstance(consumer, SyncConsumer):
        # It runs in the thread of connect(), which waits for its accept, and may read
        # the database. dispatch() closes old connections once connect() is done.
        named = await sync_to_async(lambda: method())()
    else:
        named = method()
    return await named if inspect.isawaitable(named) else named


def _require_path(path: str) -> str:
    """
    Return the path of a connection, which is its room.

    Raises:
        Refused: it is too long or not printable; the client chose it.
    """
    try:
        return require_room(path)
    except ValueError as exc:
        raise Refused(close_codes.NOT_FOUND) from exc


def require_room(room: Any) -> str:
    """
    Return the name of a room.

    Raises:
        TypeError, ValueError: it is none.
    """
    if not isinstance(room, str):
        raise TypeError(f"a room is a str, not {type(room).__name__}")
    if not 0 < len(room) <= _ROOM_CHARACTERS or not room.isprintable():
        raise ValueError(
            f"{room[:_ROOM_CHARACTERS]!r} is no room; it takes 1 to {_ROOM_CHARACTERS}"
            " printable characters"
        )
    return room


def _check(item: Any, config: PresenceConfig) -> JoinedRoom:
    if isinstance(item, JoinedRoom):
        return item
    presence = item if isinstance(item, Presence) else Presence(item)
    room = require_room(presence.room)
    if room == ONLINE:
        raise ValueError(f"{ONLINE!r} is the room of all clients; name another")
    if room.startswith(SESSIONS):
        raise ValueError(f"{room!r} is the room of a session; name another")
    if not isinstance(presence.data, Mapping):
        kind = type(presence.data).__name__
        raise TypeError(f"the data of a Presence is a mapping, not {kind}")
    try:
        # A NaN would make the events of all members of the room unreadable.
        data = json.dumps(dict(presence.data), allow_nan=False)
    except ValueError as exc:
        raise ValueError(f"the data of a Presence is no JSON: {exc}") from exc
    if len(data) > config.max_data_bytes:
        raise ValueError(
            f"the data of a Presence has {len(data)} bytes; at most"
            f" {config.max_data_bytes} (presence.max_data_bytes)"
        )
    return JoinedRoom(room=room, data=data)
