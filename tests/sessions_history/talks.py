"""Conversations with a SessionConsumer, without a server in between."""

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

from connections.asgi import CARRIER
from connections.credentials.identity import Credential, name_user
from connections.hub.connection import WEBSOCKET
from connections.node.node import Node
from connections.testing.communicators import Communicator, connect_to
from sessions_history.consumers import SessionConsumer


class Talk:
    """One client's side of one connection."""

    def __init__(self, communicator: Communicator) -> None:
        self.communicator = communicator
        self.hello: dict[str, Any] = {}
        self._page = secrets.token_hex(8)
        self._sent = 0

    @property
    def session_id(self) -> str:
        session_id: str = self.hello["session"]
        return session_id

    async def receive(self) -> dict[str, Any]:
        """Return the next message."""
        event = await self.communicator.receive_output()
        assert event["type"] == "websocket.send", event
        message: dict[str, Any] = json.loads(event["text"])
        return message

    async def receive_type(self, *kinds: str) -> dict[str, Any]:
        """Return the next message of some types, others passed over."""
        while True:
            message = await self.receive()
            if message["type"] in kinds:
                return message

    async def receive_offsets(self, last: int) -> list[int]:
        """Return the offsets of the entries that come, up to the one named."""
        offsets: list[int] = []
        while not offsets or offsets[-1] != last:
            offsets.append((await self.receive_type("entry"))["offset"])
        return offsets

    async def send(self, **message: Any) -> None:
        await self.communicator.send_json_to(message)

    async def say(self, payload: Any, message_id: str | None = None) -> str:
        """Send a message and return its id."""
        self._sent += 1
        message_id = message_id or f"{self._page}-{self._sent}"
        await self.send(type="message", id=message_id, data=payload)
        return message_id

    async def say_and_wait(self, payload: Any) -> int:
        """Send a message and return the offset it got; entries are passed over."""
        message_id = await self.say(payload)
        ack = await self.receive_type("ack")
        assert ack["id"] == message_id
        offset: int = ack["offset"]
        return offset


@asynccontextmanager
async def talk(
    node: Node,
    session_id: str = "new",
    *,
    client_id: str = "alice",
    user: Any = None,
    subprotocols: tuple[str, ...] = ("orchestra.v1",),
    carrier: str = WEBSOCKET,
    **query: Any,
) -> AsyncIterator[Talk]:
    """Connect, and read the hello."""
    communicator = start_talk(
        node,
        session_id,
        client_id=client_id,
        user=user,
        subprotocols=subprotocols,
        carrier=carrier,
        **query,
    )
    connected, subprotocol = await communicator.connect()
    assert (connected, subprotocol) == (True, max(subprotocols))
    found = Talk(communicator)
    found.hello = await found.receive()
    try:
        yield found
    finally:
        await communicator.disconnect()


def start_talk(
    node: Node,
    session_id: str = "new",
    *,
    client_id: str = "alice",
    user: Any = None,
    subprotocols: tuple[str, ...] = ("orchestra.v1",),
    carrier: str = WEBSOCKET,
    **query: Any,
) -> Communicator:
    """Return a communicator that has not connected yet; a user has its own client."""
    if user is not None:
        client_id = name_user(user)
    return connect_to(
        SessionConsumer,
        node,
        credential=Credential(client_id=client_id, user=user),
        user=user,
        subprotocols=list(subprotocols),
        extensions={CARRIER: carrier},
        url_route={"kwargs": {"session_id": session_id}},
        query_string=urlencode(query, safe=",").encode(),
    )
