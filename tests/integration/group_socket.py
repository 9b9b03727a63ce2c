"""A client of the consumer of a group on a live server."""

import asyncio

from connections.testing import (
    PING,
    PONG,
    TEXT,
    RawClient,
    build_frame,
    wait_until,
)


class GroupSocket:
    """A connection in the group, and the messages it received."""

    def __init__(self, client: RawClient) -> None:
        self.texts: list[str] = []
        self.client = client
        self._reading = asyncio.create_task(self._read())

    @property
    def is_there(self) -> bool:
        return not self._reading.done()

    async def say(self, text: str) -> None:
        await self.client.send(build_frame(TEXT, text.encode()))

    async def _read(self) -> None:
        while True:
            frame = await self.client.read_frame(seconds=3600)
            if frame.opcode == PING:
                await self.client.send(build_frame(PONG, frame.payload))
            elif frame.opcode == TEXT:
                self.texts.append(frame.payload.decode())
            else:
                return


async def say_until_heard(
    speaker: GroupSocket, word: str, listeners: list[GroupSocket]
) -> None:
    """Send a message to the group until each listener has received it."""

    async def is_heard() -> bool:
        await speaker.say(word)
        return all(word in one.texts for one in listeners)

    await wait_until(is_heard, 60)
