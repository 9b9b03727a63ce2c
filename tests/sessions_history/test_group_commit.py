"""Test the commits of the log in groups."""

import asyncio

import pytest

from connections.storage.database import Database
from connections.testing.waiting import scale
from sessions_history.entries import Committed, Request
from sessions_history.group_commit import GroupCommit
from tests.sessions_history.appends import LIMITS, make_append, make_session

pytestmark = pytest.mark.django_db(transaction=True)


async def test_a_report_that_fails_leaves_no_future_waiting() -> None:
    reported: list[int] = []

    def report(request: Request, committed: Committed) -> None:
        reported.append(committed.offset)
        if committed.offset == 1:
            raise KeyError("an error that nobody expected")

    database = Database()
    session_id = await database.write(make_session)
    commits = GroupCommit(database, LIMITS, report)
    futures = [commits.submit(make_append(session_id)) for _ in range(3)]
    async with asyncio.timeout(scale(5)):
        assert [(await one).offset for one in futures] == [1, 2, 3]
        await commits.flush()
    assert reported == [1, 2, 3]
    await database.close()
