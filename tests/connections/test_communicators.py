"""Test the timeouts of the communicator that projects test their consumers with."""

import asyncio

import pytest

from connections.consumers import LimitedConsumer
from connections.testing.communicators import Communicator, connect_to, make_node
from connections.testing.waiting import PATIENCE
from tests.connections.virtual_loop import VirtualTime


class Slow(LimitedConsumer):
    """Takes its time for everything."""

    async def connect(self) -> None:
        await asyncio.sleep(self.scope["seconds"])
        await self.accept()

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        await asyncio.sleep(self.scope["seconds"])
        await self.send(text_data=text_data)

    async def disconnect(self, code: int) -> None:
        await asyncio.sleep(self.scope["seconds"])


async def converse(seconds: float) -> None:
    communicator: Communicator = connect_to(Slow, make_node(), seconds=seconds)
    assert (await communicator.connect())[0]
    await communicator.send_json_to([1])
    assert await communicator.receive_json_from() == [1]
    await communicator.disconnect()


@pytest.mark.parametrize(("patience", "seconds"), [("1", 4), ("10", 40)])
def test_every_wait_has_the_patience_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, patience: str, seconds: float
) -> None:
    """Channels' own gives each wait one second."""
    monkeypatch.setenv(PATIENCE, patience)
    with VirtualTime() as time:
        time.run(converse(seconds))
        assert time() == 3 * seconds


def test_a_wait_in_vain_ends() -> None:
    with VirtualTime() as time, pytest.raises(TimeoutError):
        time.run(converse(100_000))
