"""One at a time, in order, and never lost."""

import asyncio

import pytest

from connections.connection.lock import Turn


async def take(turn: Turn, name: str, order: list[str]) -> None:
    if not turn.take():
        await turn.wait()
    try:
        order.append(name)
        await asyncio.sleep(0)
    finally:
        turn.give_back()


async def test_it_is_taken_by_one_at_a_time_in_order() -> None:
    turn, order = Turn(), list[str]()
    assert turn.take()
    assert not turn.take()
    waiting = [asyncio.create_task(take(turn, name, order)) for name in "abc"]
    await asyncio.sleep(0)
    turn.give_back()
    assert not turn.take(), "it belongs to the first who waits"
    await asyncio.gather(*waiting)
    assert order == ["a", "b", "c"]
    assert turn.take()


@pytest.mark.parametrize("is_handed_over", [False, True])
async def test_who_stops_waiting_does_not_keep_it(is_handed_over: bool) -> None:
    turn, order = Turn(), list[str]()
    assert turn.take()
    first = asyncio.create_task(take(turn, "a", order))
    second = asyncio.create_task(take(turn, "b", order))
    await asyncio.sleep(0)
    if is_handed_over:
        turn.give_back()
        first.cancel()
    else:
        first.cancel()
        await asyncio.sleep(0)
        turn.give_back()
    await asyncio.gather(first, second, return_exceptions=True)
    assert order == ["b"]
    assert turn.take()


async def test_who_is_passed_over_and_stops_waiting_in_one_step_is_cancelled() -> None:
    """So it is when a connection ends while several wait for their turn."""
    turn = Turn()
    assert turn.take()
    waiting = asyncio.create_task(turn.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    turn.give_back()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert turn.take()
