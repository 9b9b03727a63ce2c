"""Many look-ups become few, and none is answered with what was read before it."""

import asyncio

import pytest

from connections.credentials.batching import BatchLoader


class Source:
    """Answers when the test says so, and notes what it was asked at once."""

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


async def test_those_that_come_meanwhile_go_into_the_next_together() -> None:
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


async def test_a_failure_is_that_of_all_who_asked_and_of_no_one_else() -> None:
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


async def test_one_that_never_answers_holds_up_nobody_for_longer() -> None:
    source = Source()
    lookups = BatchLoader(source.find_all, 0.02)
    (stuck,) = await ask(lookups, "a")
    (waiting,) = await ask(lookups, "b")
    with pytest.raises(TimeoutError):
        await stuck
    source.is_open.set()
    assert await waiting == "B"


async def test_who_stops_waiting_takes_nothing_from_others() -> None:
    source = Source()
    lookups = BatchLoader(source.find_all, 5)
    gone, waiting = await ask(lookups, "a", "b")
    gone.cancel()
    source.is_open.set()
    assert await waiting == "B"
