"""A deadline counts time in which the event loop can read."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import pytest

from connections.deadline import deadline


@pytest.fixture
async def pair() -> AsyncIterator[tuple[asyncio.StreamReader, socket.socket]]:
    here, there = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=here)
    with there:
        yield reader, there
    writer.close()
    await writer.wait_closed()


async def test_an_answer_that_arrived_during_a_stall_counts(
    pair: tuple[asyncio.StreamReader, socket.socket],
) -> None:
    reader, there = pair

    def stall() -> None:
        there.send(b"answer\n")
        time.sleep(0.05)

    asyncio.get_running_loop().call_soon(stall)
    async with deadline(0.02):
        assert await reader.readline() == b"answer\n"


async def test_an_answer_that_arrived_during_the_last_quarter_counts(
    pair: tuple[asyncio.StreamReader, socket.socket],
) -> None:
    reader, there = pair

    def stall() -> None:
        there.send(b"answer\n")
        time.sleep(0.05)

    asyncio.get_running_loop().call_later(0.035, stall)
    async with deadline(0.04):
        assert await reader.readline() == b"answer\n"


async def test_an_answer_in_several_parts_counts(
    pair: tuple[asyncio.StreamReader, socket.socket],
) -> None:
    """Each read takes a pass of the loop, and the reader takes one step in each."""
    reader, there = pair

    def stall() -> None:
        there.send(b"answer\n" * 20)
        time.sleep(0.05)

    asyncio.get_running_loop().call_soon(stall)
    async with deadline(0.02):
        for _ in range(20):
            await reader.readline()
            await asyncio.sleep(0)


async def test_without_an_answer_it_gives_up_in_time() -> None:
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    with pytest.raises(TimeoutError):
        async with deadline(0.04):
            await asyncio.Event().wait()
    assert loop.time() - began_at >= 0.039


async def test_a_loop_that_is_always_late_gives_up_as_well() -> None:
    stalls = 0

    def stall() -> None:
        nonlocal stalls
        stalls += 1
        time.sleep(0.025)

    with pytest.raises(TimeoutError):
        async with deadline(0.01):
            while True:
                stall()
                await asyncio.sleep(0)
    assert stalls <= 30


async def test_a_cancellation_from_outside_stays_one() -> None:
    async def wait() -> None:
        async with deadline(5):
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
