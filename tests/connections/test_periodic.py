"""Periodic steps that fail are logged and repeated."""

import asyncio

import pytest

from connections.exceptions import DatabaseUnavailable
from connections.node.periodic import run_periodically
from tests.logged import find_records


async def fail_once(exc: BaseException) -> None:
    """Run a step that fails with an exception the first time."""
    failures = [exc]
    again = asyncio.Event()

    async def step() -> None:
        if failures:
            raise failures.pop()
        again.set()

    task = asyncio.create_task(run_periodically("The beat", step, 0))
    await again.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_outage_of_the_database_is_logged_in_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    await fail_once(DatabaseUnavailable("connection refused"))
    said = find_records(caplog, "connections.node.periodic")
    (record,) = (one for one in said if one.levelname == "ERROR")
    text = "The beat failed and will be tried again: connection refused"
    assert (record.getMessage(), record.exc_info) == (text, None)


@pytest.mark.parametrize(
    ("level", "exc"),
    [("INFO", KeyError("x")), ("DEBUG", DatabaseUnavailable("connection refused"))],
)
async def test_an_unexpected_failure_is_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture, level: str, exc: Exception
) -> None:
    caplog.set_level(level)
    await fail_once(exc)
    said = find_records(caplog, "connections.node.periodic")
    (record,) = (one for one in said if one.levelname == "ERROR")
    assert record.exc_info is not None
    assert record.exc_info[1] is exc


@pytest.mark.parametrize("kind", [asyncio.CancelledError, SystemExit])
async def test_no_end_of_what_a_step_awaits_ends_periodic_work(
    kind: type[BaseException],
) -> None:
    await fail_once(kind())


async def test_a_failure_without_a_text_does_not_end_periodic_work() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    await fail_once(Broken())
