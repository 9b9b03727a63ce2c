"""A client of live responses over plain HTTP, for several test modules."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from connections.testing.waiting import scale


class EventStream:
    """Reads the events of one response, in order."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.comments = 0
        self._lines = response.aiter_lines()

    async def read(self) -> tuple[str, Any]:
        """Return the next event and its data; ("end", None) after the last one."""
        event, data = "message", ""
        async with asyncio.timeout(scale(20)):
            async for line in self._lines:
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if name == "event":
                    event = value
                elif name == "data":
                    data = value
                elif not line and data:
                    return event, json.loads(data)
                elif line == ":":
                    self.comments += 1
        return "end", None

    async def read_until(self, event: str) -> Any:
        """Return the data of the next event of a name; others are passed over."""
        while True:
            name, data = await self.read()
            if name == event:
                return data
            assert name != "end", f"the stream ended before {event}"


@asynccontextmanager
async def open_events(
    url: str, token: str | None = None, **options: Any
) -> AsyncIterator[EventStream]:
    """Open a response and read its head."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    headers |= options.pop("headers", {})
    async with (
        httpx.AsyncClient(timeout=scale(40), **options) as client,
        client.stream("GET", url, headers=headers) as response,
    ):
        yield EventStream(response)
