"""One at a time, in order, and never lost."""

import asyncio

import pytest

from connections.connection.lock import FifoLock


async def take(turn: FifoLock, name: str, order: list[str]) -> None:
    if not turn.acquire_nowait():
        await turn.acquire()
    try:
        order.append(name)
        await asyncio.sleep(0)
    finally:
        turn.release()


async def test_it_is_taken_by_one_at_a_time_in_order() -> None:
    turn, order = FifoLock(), list[str]()
    assert turn.acquire_nowait()
    assert not turn.acquire_nowait()
    waiting = [asyncio.create_task(take(turn, name, order)) for name in "abc"]
    await asyncio.sleep(0)
    turn.release()
    assert not turn.acquire_nowait(), "it belongs to the first who waits"
    await asyncio.gather(*waiting)
    assert order == ["a", "b", "c"]
    assert turn.acquire_nowait()


@pytest.mark.parametrize("is_handed_over", [False, True])
async def test_who_stops_waiting_does_not_keep_it(is_handed_over: bool) -> None:
    turn, order = FifoLock(), list[str]()
    assert turn.acquire_nowait()
    first = asyncio.create_task(take(turn, "a", order))
    second = asyncio.create_task(take(turn, "b", order))
    await asyncio.sleep(0)
    if is_handed_over:
        turn.release()
        first.cancel()
    else:
        first.cancel()
        await asyncio.sleep(0)
        turn.release()
    await asyncio.gather(first, second, return_exceptions=True)
    assert order == ["b"]
    assert turn.acquire_nowait()


async def test_who_is_passed_over_and_stops_waiting_in_one_step_is_cancelled() -> None:
    """So it is when a connection ends while several wait for their turn."""
    turn = FifoLock()
    assert turn.acquire_nowait()
    waiting = asyncio.create_task(turn.acquire())
    await asyncio.sleep(0)
    waiting.cancel()
    turn.release()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert turn.acquire_nowait()
