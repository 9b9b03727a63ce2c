"""Background tasks are kept, logged and cancelled by their owner."""

import asyncio
import gc
import logging

import pytest

from connections.background import BackgroundTasks
from connections.testing.waiting import scale
from tests.logged import find_records


async def test_a_task_that_nobody_else_holds_runs_to_its_end() -> None:
    tasks, done = BackgroundTasks(), asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0)
        done.set()

    tasks.start(work(), "the work")
    gc.collect()
    await asyncio.wait_for(done.wait(), scale(5))
    await asyncio.sleep(0)
    assert len(tasks) == 0


async def test_what_a_task_raises_is_logged_under_its_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks = BackgroundTasks()

    async def fail() -> None:
        raise ValueError("broken")

    task = tasks.start(fail(), "the work")
    await asyncio.wait([task])
    await asyncio.sleep(0)
    (record,) = find_records(caplog, "connections.background")
    begin = "The background task 'the work' failed: ValueError: broken (connections/"
    assert record.getMessage().startswith(begin)
    assert record.levelno == logging.ERROR and record.exc_info is not None


async def test_a_step_outlives_the_cancellation_of_what_it_awaits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks, calls = BackgroundTasks(), []

    async def step() -> bool:
        calls.append(1)
        if len(calls) == 1:
            awaited = asyncio.get_running_loop().create_future()
            awaited.cancel()
            await awaited
        return True

    await asyncio.wait_for(tasks.repeat(step, "the work", 0), scale(5))
    assert len(calls) == 2
    assert "has been cancelled" in caplog.text


async def test_a_stop_cancels_all_and_waits_for_their_cleanup() -> None:
    tasks, cleaned = BackgroundTasks(), []

    async def work(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(number)

    for number in range(3):
        tasks.start(work(number), f"number {number}")
    await asyncio.sleep(0)
    await tasks.stop()
    assert sorted(cleaned) == [0, 1, 2] and len(tasks) == 0


async def test_a_stop_cancels_a_task_again_that_swallowed_its_cancellation() -> None:
    tasks = BackgroundTasks()
    cancellations: list[asyncio.CancelledError] = []

    async def work() -> None:
        while len(cancellations) < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as exc:
                cancellations.append(exc)

    tasks.start(work(), "the work")
    await asyncio.sleep(0)
    async with asyncio.timeout(scale(5)):
        await tasks.stop()
    assert len(cancellations) == 2 and len(tasks) == 0


async def test_a_wait_lasts_until_no_task_runs() -> None:
    tasks, done = BackgroundTasks(), list[int]()

    async def second() -> None:
        done.append(2)

    async def first() -> None:
        done.append(1)
        tasks.start(second(), "the second")

    tasks.start(first(), "the first")
    await tasks.wait()
    assert done == [1, 2] and len(tasks) == 0


async def test_a_repeated_step_that_raises_is_tried_again_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once until it succeeds: a failure after that is another one."""
    tasks, done = BackgroundTasks(), asyncio.Event()
    outcomes = [KeyError("a"), ValueError("b"), None, OSError("c")]

    async def step() -> None:
        if not outcomes:
            done.set()
            await asyncio.Event().wait()
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome
        await asyncio.sleep(0)

    tasks.repeat(step, "the step", 0.001)
    await asyncio.wait_for(done.wait(), scale(5))
    await tasks.stop()
    begin = "The background task 'the step' failed and is tried again: "
    first, second = find_records(caplog, "connections.background")
    assert first.getMessage().startswith(f"{begin}KeyError: 'a' (")
    assert second.getMessage().startswith(f"{begin}OSError: c (")


async def test_a_repeated_step_ends_by_returning_true() -> None:
    tasks, steps = BackgroundTasks(), 0

    async def step() -> bool:
        nonlocal steps
        steps += 1
        await asyncio.sleep(0)
        if steps == 2:
            raise ValueError("broken")
        return steps == 4

    await asyncio.wait_for(tasks.repeat(step, "the step", 0), scale(5))
    assert steps == 4 and len(tasks) == 0
