"""Test that many ends of connections are one line a second."""

import logging
from collections.abc import Callable

import pytest

from connections.ends import MOST_PER_SECOND, EndLog, end_log
from connections.testing.clock import FakeClock
from tests.connections.live_connections import make_connection
from tests.logged import find_records

LOGGER = "connections.ends"


class Reports:
    """The reports that a log asked for, to be made by the test."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []
        self.failures = 0

    def __call__(self, seconds: float, call: Callable[[], None]) -> bool:
        assert seconds == 1
        if self.failures:
            self.failures -= 1
            return False
        self.calls.append(call)
        return True

    def run(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


def end_many(log: EndLog, reason: str, count: int) -> None:
    for number in range(count):
        log.record(make_connection(f"{number:032}"), 4200, reason, 1.0)


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def log(reports: Reports, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> EndLog:
    end_log.report()  # An earlier test's ends would be counted among these.
    caplog.set_level(logging.INFO, LOGGER)
    return EndLog(clock=clock, call_later=reports)


def test_a_drain_of_ten_thousand_is_one_line_a_second(
    log: EndLog, reports: Reports, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(20):
        end_many(log, "draining", 500)
        clock.advance(1)
        reports.run()
    assert len(find_records(caplog, LOGGER)) == 20
    first = find_records(caplog, LOGGER)[0].getMessage()
    assert first == "500 connections ended within a second: 500 draining"


def test_a_few_ends_have_a_line_each(
    log: EndLog, reports: Reports, caplog: pytest.LogCaptureFixture
) -> None:
    end_many(log, "idle", MOST_PER_SECOND)
    assert len(find_records(caplog, LOGGER)) == MOST_PER_SECOND
    assert not reports.calls


def test_a_mass_of_ends_is_counted_by_reason(
    log: EndLog, reports: Reports, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    end_many(log, "kicked", MOST_PER_SECOND + 7)
    end_many(log, "network", MOST_PER_SECOND + 2)
    reports.run()
    assert "9 connections ended within a second: 7 kicked, 2 network" in caplog.text
    end_many(log, "network", 1)
    reports.run()
    assert "1 connection ended within a second: 1 network" in caplog.text
    clock.advance(1)
    caplog.clear()
    end_many(log, "kicked", 1)
    assert len(find_records(caplog, LOGGER)) == 1


def test_a_count_that_found_no_thread_is_logged_later(
    log: EndLog, reports: Reports, caplog: pytest.LogCaptureFixture
) -> None:
    reports.failures = 1
    end_many(log, "draining", 3)
    reports.run()
    assert "3 connections ended within a second" in caplog.text


def test_each_end_has_a_line_at_debug(
    log: EndLog, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    end_many(log, "draining", 50)
    assert len(find_records(caplog, LOGGER)) == 50


def test_ends_cost_nothing_where_nobody_logs_them(
    log: EndLog, reports: Reports, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, LOGGER)
    end_many(log, "draining", 50)
    assert not find_records(caplog, LOGGER) and not reports.calls
