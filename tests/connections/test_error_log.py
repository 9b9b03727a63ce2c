"""Test that a storm of errors is counted, with one traceback for each place."""

import io
import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from connections.consumers import LimitedConsumer
from connections.error_log import (
    MOST_PLACES,
    MOST_TRACEBACKS,
    QUIET_SECONDS,
    ErrorFilter,
    call_later,
    error_filter,
    get_logger,
)
from connections.testing.clock import FakeClock
from connections.testing.communicators import connect_to, make_node
from connections.testing.waiting import scale, wait_until
from tests.logged import find_records

STORM = "project.storm"


class Scheduled:
    """The calls that a filter asked for, to be made by the test."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, Callable[[], None]]] = []
        self.failures = 0

    def __call__(self, seconds: float, call: Callable[[], None]) -> bool:
        if self.failures:
            self.failures -= 1
            return False
        self.calls.append((seconds, call))
        return True

    def run(self) -> None:
        calls, self.calls = self.calls, []
        for _, call in calls:
            call()


@pytest.fixture
def scheduled() -> Scheduled:
    return Scheduled()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def logger(scheduled: Scheduled, clock: FakeClock) -> Iterator[logging.Logger]:
    """A logger of a project that has configured no handler of this library."""
    found = logging.getLogger(STORM)
    one = ErrorFilter(clock=clock, call_later=scheduled)
    found.addFilter(one)
    yield found
    found.removeFilter(one)


class Broken(Exception):
    """An exception whose text cannot be read."""

    def __str__(self) -> str:
        raise RuntimeError


def fail(logger: logging.Logger, text: str = "planted") -> None:
    try:
        raise ValueError(text)
    except ValueError as exc:
        logger.error("Work failed: %s", exc, exc_info=exc)


def test_the_first_line_names_exception_message_and_place(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    fail(logger)
    (record,) = find_records(caplog, STORM)
    first = record.getMessage()
    assert first.startswith("Work failed: ValueError: planted (connections/test_error")
    assert first.endswith(" in fail)")
    assert record.exc_info


def test_a_storm_is_one_traceback_and_a_count_each_minute(
    logger: logging.Logger, scheduled: Scheduled, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1000):
        fail(logger, f"planted {number}")
    assert len(find_records(caplog, STORM)) == 1
    scheduled.run()
    count = find_records(caplog, STORM)[1]
    assert count.getMessage().startswith("999 more errors within 60 s")
    assert "ValueError: planted 0" in count.getMessage()
    assert count.exc_info is None and count.levelno == logging.ERROR
    fail(logger)
    scheduled.run()
    assert "1 more errors" in find_records(caplog, STORM)[2].getMessage()
    scheduled.run()
    assert len(find_records(caplog, STORM)) == 3


def test_each_place_has_its_own_traceback(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    fail(logger)
    try:
        raise ValueError("elsewhere")
    except ValueError:
        logger.exception("Other work failed")
    said = find_records(caplog, STORM)
    assert [bool(record.exc_info) for record in said] == [True, True]


def test_a_place_that_was_quiet_for_an_hour_has_its_traceback_again(
    logger: logging.Logger, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    fail(logger)
    clock.advance(QUIET_SECONDS)
    fail(logger)
    assert len(find_records(caplog, STORM)) == 2


def test_places_are_bounded(
    logger: logging.Logger, scheduled: Scheduled, caplog: pytest.LogCaptureFixture
) -> None:
    """Code that is generated anew for each message has a place for each."""
    for number in range(3 * MOST_PLACES):
        try:
            exec(compile("1 / 0", f"generated/{number}.py", "exec"))
        except ZeroDivisionError:
            logger.exception("Generated code failed")
    assert len(find_records(caplog, STORM)) == MOST_TRACEBACKS
    scheduled.run()
    held_back = 3 * MOST_PLACES - MOST_TRACEBACKS
    assert f"{held_back} more errors" in caplog.text
    assert "other places" in caplog.text


def test_a_count_that_found_no_thread_is_logged_later(
    logger: logging.Logger, scheduled: Scheduled, caplog: pytest.LogCaptureFixture
) -> None:
    scheduled.failures = 1
    for _ in range(3):
        fail(logger)
    scheduled.run()
    assert "2 more errors" in caplog.text


@pytest.mark.usefixtures("one_thread_fails")
def test_a_call_says_whether_its_thread_started() -> None:
    is_called = threading.Event()
    assert not call_later(0, is_called.set)
    assert call_later(0, is_called.set)
    assert is_called.wait(scale(10))


def test_records_without_a_traceback_pass(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        logger.error("Something is wrong")
    assert len(find_records(caplog, STORM)) == 3


def test_an_exception_without_a_text_is_logged(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    logger.error("Work failed", exc_info=Broken())
    assert "Broken" in find_records(caplog, STORM)[0].getMessage()
    assert "no traceback" in find_records(caplog, STORM)[0].getMessage()


@pytest.mark.parametrize(
    ("message", "args", "expected"),
    [
        ({"event": "planted"}, (), "{'event': 'planted'}: "),
        ("Work failed: %s of %s", ("one",), "Work failed: %s of %s: "),
        ("Work failed: %s", (Broken(),), "Work failed: %s: "),
        (Broken(), (), "Broken: "),
    ],
)
def test_no_message_raises_out_of_a_call(
    logger: logging.Logger,
    caplog: pytest.LogCaptureFixture,
    message: object,
    args: tuple[object, ...],
    expected: str,
) -> None:
    for _ in range(2):
        logger.error(message, *args, exc_info=ValueError("planted"))
    (record,) = find_records(caplog, STORM)
    assert record.getMessage() == f"{expected}ValueError: planted (no traceback)"


def test_exceptions_that_are_the_message_have_one_place(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        try:
            raise ValueError(number)
        except ValueError as exc:
            logger.exception(exc)
    assert len(find_records(caplog, STORM)) == 1


def test_a_record_passes_the_filters_of_its_logger_and_of_a_handler() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(ErrorFilter(call_later=Scheduled()))
    logger = get_logger("connections.test_storm")
    logger.addHandler(handler)
    for _ in range(5):
        fail(logger)
    logger.removeHandler(handler)
    assert stream.getvalue().count("Traceback") == 1
    assert stream.getvalue().count("Work failed: ValueError: planted (") == 1


class Failing(LimitedConsumer):
    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        raise ArithmeticError("planted")


async def test_a_storm_of_failing_handlers_is_sampled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = make_node(errors={"budget": 1000})
    communicator = connect_to(Failing, node)
    await communicator.connect()
    for _ in range(20):
        await communicator.send_to(text_data="x")
    await communicator.disconnect()
    failures = [one for one in caplog.records if "handler failed" in one.getMessage()]
    assert len(failures) == 1
    assert "ArithmeticError: planted" in failures[0].getMessage()
    error_filter.report()

    def count_held_back() -> int:
        said = find_records(caplog, "connections.connection.failures")
        return sum(getattr(one, "count", 0) for one in said)

    # The minute of an earlier test's error may end in between: a thread reports some.
    await wait_until(lambda: count_held_back() == 19)
