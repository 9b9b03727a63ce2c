"""Calls that fall due at once are spread over turns of the event loop."""

import asyncio
from typing import Any

import pytest

from connections.server.turns import CallsPerTurn


@pytest.fixture
async def calls() -> CallsPerTurn:
    return CallsPerTurn(asyncio.get_running_loop(), most=10)


async def test_so_many_are_made_in_each_turn_in_their_order(
    calls: CallsPerTurn,
) -> None:
    made: list[int] = []
    for number in range(35):
        calls.run(lambda number=number: made.append(number))  # type: ignore[misc]
    counts = [len(made)]
    while counts[-1] < 35:
        await asyncio.sleep(0)
        counts.append(len(made))
    assert counts == [10, 20, 30, 35]
    assert made == sorted(made)


async def test_a_few_are_made_at_once_in_every_turn(calls: CallsPerTurn) -> None:
    made: list[int] = []
    for turn in range(5):
        for _ in range(10):
            calls.run(lambda: made.append(1))
        assert len(made) == 10 * (turn + 1)
        await asyncio.sleep(0)


async def test_a_call_that_fails_stops_no_other(calls: CallsPerTurn) -> None:
    made: list[int] = []
    problems: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: problems.append(context["exception"])
    )

    def fail() -> None:
        raise KeyError("an error that nobody expected")

    for _ in range(10):
        calls.run(lambda: None)
    calls.run(fail)
    calls.run(lambda: made.append(1))
    await asyncio.sleep(0)
    assert made == [1] and len(problems) == 1


async def test_calls_made_by_calls_are_spread_too(calls: CallsPerTurn) -> None:
    made: list[int] = []

    def call() -> None:
        made.append(1)
        if len(made) < 25:
            calls.run(call)

    calls.run(call)
    assert len(made) == 10
    await asyncio.sleep(0)
    assert len(made) == 20
