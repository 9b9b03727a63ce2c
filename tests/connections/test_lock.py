"""Test that the lock admits one task at a time, in order, and is never lost."""

import asyncio

import pytest

from connections.connection.lock import FifoLock
from connections.testing.waiting import scale


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


async def take_second(lock: FifoLock, order: list[str]) -> None:
    await lock.acquire_second()
    try:
        order.append("second")
    finally:
        lock.release()


async def test_one_task_passes_in_a_tie_and_no_other() -> None:
    lock, order = FifoLock(), list[str]()
    second = asyncio.create_task(take_second(lock, order))
    others = [asyncio.create_task(take(lock, name, order)) for name in "abc"]
    await asyncio.gather(second, *others)
    assert order == ["a", "second", "b", "c"]
    assert lock.acquire_nowait()


async def test_the_second_of_a_tie_acquires_a_free_lock_by_itself() -> None:
    lock, order = FifoLock(), list[str]()
    async with asyncio.timeout(scale(15)):
        await take_second(lock, order)
    assert order == ["second"]
    assert lock.acquire_nowait()


@pytest.mark.parametrize("iterations", [1, 2, 3])
@pytest.mark.parametrize("is_taken", [False, True])
async def test_a_cancelled_second_does_not_keep_it(
    iterations: int, is_taken: bool
) -> None:
    lock = FifoLock()
    if is_taken:
        assert lock.acquire_nowait()
    second = asyncio.create_task(lock.acquire_second())
    for _ in range(iterations):
        await asyncio.sleep(0)
    is_acquired = second.done()
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    if is_taken or is_acquired:
        lock.release()
    assert lock.acquire_nowait()
