"""Test that look-ups are combined, and no answer is older than its request."""

import asyncio
from collections.abc import Sequence

import pytest

from connections.credentials.batching import BatchLoader
from tests.connections.virtual_loop import VirtualTime


class Source:
    """Answers when the test allows it, and records the batches."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.is_open = asyncio.Event()
        self.failure: Exception | None = None

    async def find_all(self, keys: list[str]) -> list[str]:
        self.asked.append(keys)
        await self.is_open.wait()
        if self.failure is not None:
            raise self.failure
        return [key.upper() for key in keys]


async def ask(lookups: BatchLoader[str], *keys: str) -> list[asyncio.Task[str]]:
    tasks = [asyncio.create_task(lookups.find(key)) for key in keys]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_keys_that_arrive_during_a_batch_form_the_next_one() -> None:
    source = Source()
    lookups = BatchLoader(source.find_all, 5)
    first = await ask(lookups, "a", "b")
    second = await ask(lookups, "c")
    third = await ask(lookups, "a")
    assert source.asked == [["a", "b"]]
    source.is_open.set()
    found = await asyncio.gather(*first, *second, *third)
    assert found == ["A", "B", "C", "A"]
    assert source.asked == [["a", "b"], ["c", "a"]]


async def test_a_failure_concerns_its_batch_alone() -> None:
    source = Source()
    lookups = BatchLoader(source.find_all, 5)
    source.failure = LookupError("away")
    source.is_open.set()
    for task in await ask(lookups, "a", "b"):
        with pytest.raises(LookupError):
            await task
    source.failure = None
    (task,) = await ask(lookups, "c")
    assert await task == "C"


async def test_a_batch_without_an_answer_times_out() -> None:
    source = Source()
    lookups = BatchLoader(source.find_all, 0.02)
    (stuck,) = await ask(lookups, "a")
    (waiting,) = await ask(lookups, "b")
    with pytest.raises(TimeoutError):
        await stuck
    source.is_open.set()
    assert await waiting == "B"


async def test_a_cancelled_look_up_does_not_affect_others() -> None:
    source = Source()
    lookups = BatchLoader(source.find_all, 5)
    gone, waiting = await ask(lookups, "a", "b")
    gone.cancel()
    source.is_open.set()
    assert await waiting == "B"


async def find_at_intervals(
    lookups: BatchLoader[str], keys: Sequence[str], seconds: float
) -> None:
    """Look up two keys at once, and then one after another."""
    await asyncio.gather(*(lookups.find(key) for key in ("first", "too")))
    finding = []
    for key in keys:
        finding.append(asyncio.create_task(lookups.find(key)))
        await asyncio.sleep(seconds)
    await asyncio.gather(*finding)


def test_keys_that_come_one_after_another_form_one_batch() -> None:
    source, letters = Source(), list("abcdefgh")
    source.is_open.set()
    with VirtualTime() as now:
        lookups = BatchLoader(source.find_all, 5)
        now.run(find_at_intervals(lookups, letters, 0.0005))
        assert source.asked == [["first", "too"], letters]
        # A millisecond after the last one: nobody waits for those who do not come.
        assert now() < 0.007


def test_a_batch_waits_no_longer_where_keys_never_cease() -> None:
    source = Source()
    source.is_open.set()
    keys = [f"{number}" for number in range(100)]
    with VirtualTime() as now:
        now.run(find_at_intervals(BatchLoader(source.find_all, 5), keys, 0.0005))
    _, first, *_ = source.asked
    assert 40 <= len(first) <= 43
