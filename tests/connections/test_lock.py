"""Test that the lock admits one task at a time, in order, and is never lost."""

import asyncio

import pytest

from connections.connection.lock import FifoLock


async def take(lock: FifoLock, name: str, order: list[str]) -> None:
    if not lock.acquire_nowait():
        await lock.acquire()
    try:
        order.append(name)
        await asyncio.sleep(0)
    finally:
        lock.release()


async def test_tasks_acquire_it_one_at_a_time_in_order() -> None:
    lock, order = FifoLock(), list[str]()
    assert lock.acquire_nowait()
    assert not lock.acquire_nowait()
    waiting = [asyncio.create_task(take(lock, name, order)) for name in "abc"]
    await asyncio.sleep(0)
    lock.release()
    assert not lock.acquire_nowait(), "it belongs to the first waiter"
    await asyncio.gather(*waiting)
    assert order == ["a", "b", "c"]
    assert lock.acquire_nowait()


@pytest.mark.parametrize("is_handed_over", [False, True])
async def test_a_cancelled_waiter_does_not_keep_it(is_handed_over: bool) -> None:
    lock, order = FifoLock(), list[str]()
    assert lock.acquire_nowait()
    first = asyncio.create_task(take(lock, "a", order))
    second = asyncio.create_task(take(lock, "b", order))
    await asyncio.sleep(0)
    if is_handed_over:
        lock.release()
        first.cancel()
    else:
        first.cancel()
        await asyncio.sleep(0)
        lock.release()
    await asyncio.gather(first, second, return_exceptions=True)
    assert order == ["b"]
    assert lock.acquire_nowait()


async def test_a_waiter_skipped_by_release_in_the_same_iteration_is_cancelled() -> None:
    """This happens when a connection ends while several tasks wait."""
    lock = FifoLock()
    assert lock.acquire_nowait()
    waiting = asyncio.create_task(lock.acquire())
    await asyncio.sleep(0)
    waiting.cancel()
    lock.release()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert lock.acquire_nowait()
