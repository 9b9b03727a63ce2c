"""Test that viewers of the dashboard do not wait for the statistics of others."""

import threading
from concurrent.futures import ThreadPoolExecutor

from connections.dashboard.statistics import Statistics, StatisticsCache
from connections.testing.clock import FakeClock
from connections.testing.waiting import scale


def make_statistics(step_minutes: int) -> Statistics:
    empty: tuple[float, ...] = ()
    return Statistics(
        times=(),
        step_minutes=step_minutes,
        open_connections=empty,
        opened=empty,
        ended=empty,
        messages_in=empty,
        messages_out=empty,
        errors={},
        refused={},
    )


class Reader:
    """Reads statistics when the test lets it, and counts how often."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.has_begun = threading.Event()
        self.count = 0

    def __call__(self, range_name: str, node_id: str) -> Statistics:
        if range_name == "7d":
            self.count += 1
            self.has_begun.set()
            assert self.may_end.wait(scale(10))
        return make_statistics(self.count)


def test_a_long_range_holds_up_no_other_range() -> None:
    reader = Reader()
    cache = StatisticsCache(FakeClock(), reader)
    with ThreadPoolExecutor(1) as other:
        long = other.submit(cache.get, "7d")
        assert reader.has_begun.wait(scale(10))
        assert cache.get("1h").step_minutes == 1
        assert not long.done()
        reader.may_end.set()


def test_the_last_statistics_are_served_while_one_thread_reads_new_ones() -> None:
    reader, clock = Reader(), FakeClock()
    cache = StatisticsCache(clock, reader)
    reader.may_end.set()
    first = cache.get("7d")
    clock.advance(3600)
    reader.may_end.clear()
    reader.has_begun.clear()
    with ThreadPoolExecutor(1) as other:
        refreshed = other.submit(cache.get, "7d")
        assert reader.has_begun.wait(scale(10))
        assert cache.get("7d") is first
        reader.may_end.set()
        assert refreshed.result(scale(10)).step_minutes == 2
    assert cache.get("7d").step_minutes == 2


def test_a_range_is_read_once_for_all_that_wait_for_it() -> None:
    reader = Reader()
    cache = StatisticsCache(FakeClock(), reader)
    with ThreadPoolExecutor(4) as others:
        found = [others.submit(cache.get, "7d") for _ in range(4)]
        assert reader.has_begun.wait(scale(10))
        reader.may_end.set()
        assert {one.result(scale(10)).step_minutes for one in found} == {1}
    assert reader.count == 1
