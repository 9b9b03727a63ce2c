"""Test the commits of the log in groups."""

import asyncio

import pytest

from connections.storage.database import Database
from connections.testing.waiting import scale
from sessions_history.entries import Committed, Growth, Request, Rewrite
from sessions_history.exceptions import LogFull, SessionNotFound
from sessions_history.group_commit import GroupCommit
from tests.sessions_history.appends import LIMITS, make_append, make_session

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("kind", ["growth", "end"])
async def test_the_parts_of_answers_count_for_what_may_wait(kind: str) -> None:
    """A node that cannot write keeps 64 MB at most."""
    database = Database()
    commits = GroupCommit(database, LIMITS)
    parts = "x" * 33_000_000
    made: dict[str, Request] = {
        "growth": Growth(session_id="s", offset=1, sequence=1, text="", parts=parts),
        "end": Rewrite(session_id="s", offset=1, state="done", data="{}", parts=parts),
    }
    waiting = commits.submit(made[kind])
    with pytest.raises(LogFull):
        commits.submit(made[kind])
    with pytest.raises(SessionNotFound):
        await waiting
    await database.close()


async def test_what_is_larger_than_all_may_be_has_room_alone() -> None:
    """It would be tried again for ever."""
    database = Database()
    commits = GroupCommit(database, LIMITS)
    end = Rewrite(session_id="s", offset=1, state="done", data="x" * 65_000_000)
    waiting = commits.submit(end)
    with pytest.raises(LogFull):
        commits.submit(make_append("s"))
    with pytest.raises(SessionNotFound):
        await waiting
    await database.close()


async def test_all_of_a_batch_are_settled_before_the_first_is_reported() -> None:
    """So a connection gets the acks of its messages and their entries together."""
    futures: list[asyncio.Future[Committed]] = []
    settled: list[list[bool]] = []

    def report(request: Request, committed: Committed) -> None:
        settled.append([one.done() for one in futures])

    database = Database()
    session_id = await database.write(make_session)
    commits = GroupCommit(database, LIMITS, report)
    futures += [commits.submit(make_append(session_id)) for _ in range(3)]
    await commits.flush()
    assert settled == [[True] * 3] * 3
    await database.close()


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
