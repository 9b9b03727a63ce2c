"""
A client of sessions for services and tests; it reconnects and misses no entry.

    async with SessionClient("wss://host/ws/sessions/", token=TOKEN) as client:
        events = client.events()
        ack = await client.request({"text": "Hello"})
        async for event in events:
            ...

It needs the `websockets` library and no Django. By hand:

    python -m connections.client ws://127.0.0.1:8000/ws/echo/ --token TOKEN
"""

import sys
import warnings

try:
    import websockets as _websockets  # noqa: F401
except ModuleNotFoundError as exc:
    _NEEDED = "websockets is needed: pip install websockets"
    if sys.argv[:1] == [
        "-m"
    ]:  # sys.argv is this while `python -m` looks for the module.
        sys.exit(f"connections.client: {_NEEDED}")
    raise ImportError(_NEEDED) from exc

from connections.client.connect import open_connection
from connections.client.events import (
    Attached,
    EntryArrived,
    EntryCompleted,
    EntryGrew,
    ErrorReceived,
    Event,
    MembersChanged,
    NoticeReceived,
    State,
    StateChanged,
    TypingChanged,
)
from connections.client.fallback import with_fallback
from connections.client.http_members import Invitation, Joined, Member, Members
from connections.client.http_sessions import HttpSessions, Page, StoredSession
from connections.client.outbox import Ack, RequestFailed
from connections.client.reconnect import Ended
from connections.client.session import SessionClient
from connections.client.shared_connection import SharedConnection
from connections.client.tokens import UnauthorizedError
from connections.client.transcript import Entry

__all__ = [
    "Ack",
    "Attached",
    "Ended",
    "Entry",
    "EntryArrived",
    "EntryCompleted",
    "EntryGrew",
    "ErrorReceived",
    "Event",
    "HttpSessions",
    "Invitation",
    "Joined",
    "Member",
    "Members",
    "MembersChanged",
    "NoticeReceived",
    "Page",
    "RequestFailed",
    "SessionClient",
    "SharedConnection",
    "State",
    "StateChanged",
    "StoredSession",
    "TypingChanged",
    "UnauthorizedError",
    "open_connection",
    "with_fallback",
]

_RENAMED = {
    "EntrySettled": EntryCompleted,
    "Noticed": NoticeReceived,
    "Warned": ErrorReceived,
}


def __getattr__(name: str) -> object:
    # connections.deprecation is not used: this package is also published alone.
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    event = _RENAMED[name]
    warnings.warn(
        f"{__name__}.{name} is called {event.__name__} now; the old name goes with 0.3",
        DeprecationWarning,
        stacklevel=2,
    )
    return event
