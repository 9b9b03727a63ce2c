"""Hold what the sessions of one connection share."""

import asyncio
import json
from dataclasses import dataclass, field

from connections.asgi import Message
from connections.connection.public import ConsumerConnection
from connections.node.node import Node
from sessions_history.entries import Committed
from sessions_history.log import SessionLog
from sessions_history.subscribers import SendText
from sessions_history.turns import Turns


@dataclass(slots=True, kw_only=True, eq=False)
class SharedConnection:
    """What the sessions of one connection share."""

    node: Node
    log: SessionLog
    connection: ConsumerConnection
    send: SendText
    has_parts: bool
    turns: Turns = field(default_factory=Turns)
    under_way: set[asyncio.Future[Committed]] = field(default_factory=set)
    """The messages that wait for their commit."""

    has_settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when one of them is settled."""

    async def send_in_turn(self, content: Message) -> None:
        """Send a message that is no activity, after those that wait for their turn."""
        text = json.dumps(content)
        async with self.turns:
            await self.connection.send(text)
