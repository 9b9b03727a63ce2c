"""Test how a process that answers or serves takes signals."""

import asyncio
import os
import signal

import pytest

from connections.process_exit import stop_on_signals
from connections.testing import wait_until


class CountedEvent(asyncio.Event):
    count = 0

    def set(self) -> None:
        self.count += 1
        super().set()


async def test_each_signal_makes_the_process_wait_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It stops, then it hurries, then it exits."""
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    stopping, hurrying = asyncio.Event(), asyncio.Event()
    stop_on_signals(stopping, hurrying)
    signal.raise_signal(signal.SIGTERM)
    await stopping.wait()
    assert not hurrying.is_set()
    signal.raise_signal(signal.SIGTERM)
    await hurrying.wait()
    assert exits == []
    signal.raise_signal(signal.SIGINT)
    await wait_until(lambda: exits == [1])


async def test_a_second_signal_after_the_work_has_ended_exits_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever waits may set the second event by itself, when nothing is left."""
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    stopping, hurrying = asyncio.Event(), CountedEvent()
    stop_on_signals(stopping, hurrying)
    signal.raise_signal(signal.SIGTERM)
    await stopping.wait()
    hurrying.set()
    signal.raise_signal(signal.SIGTERM)
    await wait_until(lambda: hurrying.count == 2)
    assert exits == []
