"""Five consumers to attack, for any base class."""

import asyncio
import json
from typing import Any

from django.urls import URLPattern, path


class Echo:
    """Echo every message."""

    send: Any

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        await self.send(text_data=text_data, bytes_data=bytes_data)


class Slow:
    """Take half a second for each message."""

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        await asyncio.sleep(0.5)


class Flood:
    """Send the requested number of messages of the requested size."""

    send: Any

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        count, size = map(int, (text_data or "0 0").split())
        for _ in range(count):
            await self.send(bytes_data=bytes(size))


class Json:
    """Parse each message as JSON, valid or not."""

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        json.loads(text_data or "")


class Silent:
    """Never answer a handshake."""

    async def connect(self) -> None:
        await asyncio.sleep(3600)


def make_routes(base: Any) -> list[URLPattern]:
    """Return a route for each consumer, derived from a base class."""
    consumers: list[Any] = [
        type(consumer.__name__, (consumer, base), {})
        for consumer in (Echo, Slow, Flood, Json, Silent)
    ]
    return [path(f"{one.__name__.lower()}/", one.as_asgi()) for one in consumers]
