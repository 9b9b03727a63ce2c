"""Keep the presence of each node that runs in this process."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol


class Reader(Protocol):
    """The part of a node's presence, or of a store, that answers questions."""

    is_shared: bool

    async def get_present(self, room: str) -> Mapping[str, str]:
        """Return the public data of each member of a room, as JSON."""

    async def find_present(self, room: str, members: Sequence[str]) -> set[str]:
        """Return those of the members that are in a room."""

    async def count(self, room: str) -> int:
        """Return the number of members of a room."""


class Serving:
    """The readers of this process and their event loops; any thread may ask."""

    def __init__(self) -> None:
        self._loops: dict[Reader, asyncio.AbstractEventLoop] = {}

    def add(self, reader: Reader) -> None:
        """Add a reader that answers on the running event loop."""
        self._loops = {
            one: loop for one, loop in self._loops.items() if not loop.is_closed()
        }
        self._loops[reader] = asyncio.get_running_loop()

    def discard(self, reader: Reader) -> None:
        """Remove a reader."""
        self._loops.pop(reader, None)

    def find(self) -> list[tuple[Reader, asyncio.AbstractEventLoop]]:
        """Return the readers that answer at present."""
        return [
            (reader, loop)
            for reader, loop in list(self._loops.items())
            if loop.is_running()
        ]


serving = Serving()
