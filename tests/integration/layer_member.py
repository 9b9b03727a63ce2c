"""A consumer in a group, as the tests of shared layers need it."""

import asyncio
from typing import Any

from connections.layers.mailbox import GAP
from connections.layers.shared import SharedLayer
from connections.testing import wait_until


class Member:
    """A consumer in a group that stores received messages."""

    def __init__(self, layer: SharedLayer) -> None:
        self.layer = layer
        self.channel = ""
        self.messages: list[dict[str, Any]] = []
        self._task: asyncio.Task[None] | None = None

    async def open(self, *groups: str) -> "Member":
        self.channel = await self.layer.new_channel()
        self._task = asyncio.create_task(self._read())
        for group in groups:
            await self.layer.group_add(group, self.channel)
        return self

    @property
    def is_alive(self) -> bool:
        return self._task is not None and not self._task.done()

    @property
    def numbers(self) -> list[int]:
        return [one["n"] for one in self.messages if one["type"] == "n"]

    @property
    def gaps(self) -> list[int | None]:
        return [one["missed"] for one in self.messages if one["type"] == GAP]

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _read(self) -> None:
        while True:
            self.messages.append(await self.layer.receive_any(self.channel))


async def send_until_heard(
    layer: SharedLayer, group: str, *members: Member, kind: str = "marker"
) -> None:
    """Send markers until each member has received one."""
    marker = {"type": kind}

    async def is_heard() -> bool:
        await layer.group_send(group, marker)
        return all(marker in member.messages for member in members)

    await wait_until(is_heard, 15)
