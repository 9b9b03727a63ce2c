"""
For services and tests: a client of sessions that comes back and misses nothing.

    async with SessionClient("wss://host/ws/sessions/", token=TOKEN) as client:
        ack = await client.request({"text": "Hello"})
        async for event in client.events():
            ...

It needs the `websockets` library and no Django. By hand:

    python -m connections.client ws://127.0.0.1:8000/ws/echo/ --token TOKEN
"""

import sys

try:
    import websockets as _websockets  # noqa: F401
except ModuleNotFoundError as exc:
    _NEEDED = "websockets is needed: pip install 'orchestra-websocket[client]'"
    if sys.argv[:1] == ["-m"]:  # So it stands while `python -m` looks for the module.
        sys.exit(f"connections.client: {_NEEDED}")
    raise ImportError(_NEEDED) from exc

from connections.client.connect import open_connection
from connections.client.events import (
    Attached,
    EntryArrived,
    EntryGrew,
    EntrySettled,
    Event,
    Noticed,
    State,
    StateChanged,
    Warned,
)
from connections.client.outbox import Ack, RequestFailed
from connections.client.reconnect import Ended
from connections.client.session import SessionClient
from connections.client.transcript import Entry

__all__ = [
    "Ack",
    "Attached",
    "Ended",
    "Entry",
    "EntryArrived",
    "EntryGrew",
    "EntrySettled",
    "Event",
    "Noticed",
    "RequestFailed",
    "SessionClient",
    "State",
    "StateChanged",
    "Warned",
    "open_connection",
]
