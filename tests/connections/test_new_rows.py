"""A node reads each row once, in whatever order the rows are committed."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from channels.db import database_sync_to_async
from django.utils import timezone

from connections.models import CloseRequest
from connections.node.new_rows import NewRows
from connections.storage.database import Database
from connections.testing import FakeClock

pytestmark = pytest.mark.django_db(transaction=True)


class Case:
    """A reader of close requests, and the rows that others post."""

    def __init__(self, database: Database) -> None:
        self.clock = FakeClock()
        self.database = database
        self.rows = NewRows(CloseRequest, self.clock)

    async def post(self, *pks: int, seconds_ago: float = 0) -> None:
        created_at = timezone.now() - timedelta(seconds=seconds_ago)
        rows = [
            CloseRequest(pk=pk, target="all", reason="kicked", created_at=created_at)
            for pk in pks
        ]
        await database_sync_to_async(CloseRequest.objects.post)(rows)

    async def read(self) -> list[int]:
        return [row.pk for row, _ in await self.rows.poll(self.database)]

    async def read_ages(self) -> list[float]:
        found = await self.rows.poll(self.database)
        return [round(age.total_seconds()) for _, age in found]


@pytest.fixture
async def case() -> AsyncIterator[Case]:
    database = Database()
    yield Case(database)
    await database.close()


async def test_a_row_is_read_once(case: Case) -> None:
    await case.post(5)
    assert await case.read() == [5]
    assert await case.read() == []
    await case.post(6, 7)
    assert await case.read() == [6, 7]
    case.clock.advance(4000)
    assert await case.read() == []


async def test_the_first_read_passes_over_rows_of_more_than_a_minute(
    case: Case,
) -> None:
    await case.post(5, seconds_ago=61)
    await case.post(6, seconds_ago=30)
    assert await case.read() == [6]
    assert await case.read() == []


@pytest.mark.parametrize("seconds", [16, 70, 3000])
async def test_a_row_that_is_committed_late_counts_from_its_commit(
    case: Case, seconds: float
) -> None:
    """Its id is lower than others that were read, and its time is the statement's."""
    await case.post(4)
    await case.read()
    await case.post(10)
    assert await case.read() == [10]
    case.clock.advance(seconds)
    await case.read()
    case.clock.advance(1)
    await case.post(9, seconds_ago=seconds)
    assert await case.read_ages() == [1]
    assert await case.read() == []


async def test_the_late_row_of_a_quiet_table_counts_as_well(case: Case) -> None:
    assert await case.read() == []
    case.clock.advance(70)
    await case.read()
    await case.post(1, seconds_ago=70)
    assert await case.read_ages() == [0]


async def test_gaps_of_the_first_read_are_filled_too(case: Case) -> None:
    await case.post(4, 9, seconds_ago=120)
    assert await case.read() == []
    await case.post(5, 8, seconds_ago=150)
    assert await case.read() == [5, 8]
    await case.post(6, 7, seconds_ago=150)
    assert await case.read() == [6, 7]


async def test_after_an_outage_the_age_is_the_databases(case: Case) -> None:
    await case.read()
    case.clock.advance(600)
    await case.post(3, seconds_ago=200)
    (age,) = await case.read_ages()
    # The time since the last read, of the node's clock, is longer.
    assert 200 <= age < 600


async def test_an_id_that_is_given_again_is_read(case: Case) -> None:
    """A fail-over lost the row, and the sequence went back with it."""
    await case.post(5)
    assert await case.read() == [5]
    await database_sync_to_async(CloseRequest.objects.all().delete)()
    await case.post(5)
    assert await case.read() == [5]


async def test_thousands_of_rows_and_gaps_are_read(case: Case) -> None:
    await case.read()
    await case.post(*range(1, 3001, 2))
    assert len(await case.read()) == 1500
    await case.post(3000)
    assert await case.read() == [3000]


async def test_a_read_that_fails_is_repeated(case: Case) -> None:
    await case.read()
    await case.post(5)
    failing: Any = Failing(case.database)
    with pytest.raises(ConnectionError):
        await case.rows.poll(failing)
    assert await case.read() == [5]


class Failing:
    """A database that reads, and whose answer is lost."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, work: Any) -> Any:
        await self._database.read(work)
        raise ConnectionError("planted")
