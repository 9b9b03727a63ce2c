"""Send JSON messages between the parent and one worker, over a pair of sockets."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

Message = dict[str, Any]

_MAX_LINE_BYTES = 64 * 1024 * 1024


class Channel:
    """
    One end of the line between the parent and a worker.

    A message is a JSON object in one line; `type` names it. A receiver ignores the
    types that it does not know, because after a deploy the parent may be older.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, sock: socket.socket) -> "Channel":
        """Take over one socket of a pair."""
        return cls(
            *await asyncio.open_unix_connection(sock=sock, limit=_MAX_LINE_BYTES)
        )

    def send(self, message: Message) -> None:
        """Send a message, or drop it if the other end is gone."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Yield the messages of the other end, until it closes or is killed."""
        while (line := await self._read_line()).endswith(b"\n"):
            yield json.loads(line)

    async def _read_line(self) -> bytes:
        try:
            return await self._reader.readline()
        except ConnectionError:
            return b""

    def close(self) -> None:
        """Close this end."""
        self._writer.close()
