"""Renew the leases of one process's work, and take over what others left."""

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager

from connections.error_log import get_logger
from connections.exceptions import DatabaseUnavailable
from connections.passes import Passes
from connections.storage.database import Database
from sessions_history import work
from sessions_history.entries import State
from sessions_history.fan_out import FanOut
from sessions_history.group_commit import GroupCommit
from sessions_history.producers import Producers, WorkKey
from sessions_history.responders import is_concurrent
from sessions_history.resumption import interrupt, prepare

logger = get_logger(__name__)

_UNKNOWN_SECONDS = 2.0
"""After this time a committed work that nobody here does was lost on its way: the
reply to its commit takes milliseconds."""

_WAITING_SECONDS = 10
_REPORT_SECONDS = 60
"""How long an answer may wait for a worker, and how often a node says that some do."""

_PATIENCE_SECONDS = 3
"""How long after an outage nothing is taken over: the living renew within about two."""

_RESUMPTION = "The resumption of work"


class WorkLeases:
    """
    The leases of the work of one process: its open streams and its answers.

    The process takes over the works of others whose lease has ended, and begins
    those of its own that it does not know, as after a lost reply to COMMIT.
    """

    def __init__(
        self,
        *,
        producers: Producers,
        database: Database,
        commits: GroupCommit,
        fan_out: FanOut,
        terms: work.Terms,
        passes: Passes,
        takes: work.Takes,
    ) -> None:
        self._producers = producers
        self._database = database
        self._commits = commits
        self._fan_out = fan_out
        self._terms = terms
        self._passes = passes
        self._takes = takes
        # Works that this process owns and does not do, since when.
        self._unknown: dict[WorkKey, float] = {}
        self._takes_over_at = 0.0
        self._extends_at = 0.0
        self._has_taken = False
        self._left_from = 0.0
        self._reported_at = -math.inf

    async def check(self) -> bool:
        """
        Renew the leases of the work here, and take over what others left.

        Returns False if a work could not be resumed; the others are.

        Raises:
            DatabaseUnavailable: the next check tries again.
        """
        now = asyncio.get_running_loop().time()
        is_due = self._takes is not work.Takes.NONE and now >= self._takes_over_at
        is_of_worker = self._takes.is_of_worker
        if not is_of_worker and now < self._left_from:
            is_due = False
        before, is_whole = set(self._producers.streams), True
        with self._patience():
            if before or self._unknown or is_due:
                owned = await self._database.write(
                    work.renew,
                    self._terms,
                    has_waiting=bool(
                        self._producers.order.streams
                        or self._producers.approvals.streams
                    ),
                )
                await self._producers.approvals.check()
                is_whole = await self._compare(before, owned, now)
            if is_due:
                self._takes_over_at = now + self._terms.lease_seconds / 3
                if not is_of_worker:
                    is_whole &= all(await self._take_over(self._takes, work.MOST_TAKEN))
                if self._takes is work.Takes.STREAMS:
                    await self._report_waiting()
            await self._extend_turns(now)
        return self._passes.finish(_RESUMPTION, is_whole=is_whole)

    async def _extend_turns(self, now: float) -> None:
        """Keep the time of answers that wait for their turn from ending before it."""
        terms = self._terms
        is_taking = self._takes is not work.Takes.NONE
        if terms.leaves_answers and is_taking and now >= self._extends_at:
            await self._database.write(work.extend_turns, terms)
            seconds = min(terms.lease_seconds, terms.timeout_seconds) / 3
            self._extends_at = now + seconds

    async def take_next(self) -> bool:
        """
        Begin the answers that wait for a worker, as far as there is room.

        It takes turns with check(), which renews what is here already. Returns
        whether there were any.

        Raises:
            DatabaseUnavailable: the next call tries again.
        """
        most = min(self._producers.quota.room, work.MOST_TAKEN)
        if not most or not self._takes.is_of_worker:
            return False
        now = asyncio.get_running_loop().time()
        terms, takes, is_left_too = self._terms, self._takes, now >= self._left_from
        with self._patience():
            is_any = await self._database.read(
                work.is_any_due, terms, takes, is_left_too=is_left_too
            )
            # It may have been told to take no more meanwhile.
            if not is_any or self._takes is not takes:
                return False
            return bool(await self._take_over(takes, most, is_left_too=is_left_too))

    def take_no_more(self) -> None:
        """Leave the work of others to others from now on."""
        self._takes = work.Takes.NONE

    async def release(self) -> None:
        """Let others go on at once with what is left, once all streams have ended."""
        if not self._has_taken and not self._producers.has_opened:
            return
        try:
            await self._database.write(work.release, self._terms.owner)
        except DatabaseUnavailable as exc:
            logger.debug("Others wait for the ends of the leases: %s", exc)

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """After an outage, let those who are alive renew their leases first."""
        try:
            yield
        except DatabaseUnavailable:
            self._takes_over_at = 0.0
            now = asyncio.get_running_loop().time()
            self._left_from = now + min(
                self._terms.lease_seconds / 3, _PATIENCE_SECONDS
            )
            raise

    async def _take_over(
        self, takes: work.Takes, most: int, *, is_left_too: bool = True
    ) -> list[bool]:
        """Go on with what others left; return of each work whether that succeeded."""
        self._has_taken = True
        responder = self._producers.get_responder()
        taken = await self._database.write(
            work.take_over,
            self._terms,
            takes,
            most,
            is_left_too=is_left_too,
            in_turn=responder is not None and not is_concurrent(responder),
        )
        if self._takes is not takes:
            # It was told to take no more meanwhile.
            await self._database.write(work.give_back, self._terms, taken)
            return []
        if len(taken) == most and self._producers.quota.room:
            # There may be more.
            self._takes_over_at = 0.0
        # What fails here is unknown to the next check, which tries it again.
        return [await self._attempt_resume(one) for one in taken]

    async def _compare(
        self, before: set[WorkKey], owned: list[work.DueWork], now: float
    ) -> bool:
        """End the streams that the database ended, and begin what it alone knows."""
        is_whole, streams = True, self._producers.streams
        keys = {(one.session_id, one.offset): one for one in owned}
        for key in before - keys.keys():
            if key in streams:
                streams[key].end_as(State.CANCELLED)
        for key in keys.keys() & streams.keys():
            if keys[key].is_late:
                streams[key].end_as(State.INTERRUPTED)
            if not keys[key].is_blocked:
                self._producers.order.notify(key[0])
        unknown = keys.keys() - streams.keys()
        self._unknown = {key: self._unknown.get(key, now) for key in unknown}
        for key, since in list(self._unknown.items()):
            if now - since >= _UNKNOWN_SECONDS:
                if await self._attempt_resume(keys[key]):
                    del self._unknown[key]
                else:
                    is_whole = False
        return is_whole

    async def _attempt_resume(self, due: work.DueWork) -> bool:
        """
        Resume a work; return False if that failed for this work alone.

        Raises:
            DatabaseUnavailable: the others would fail as well.
        """
        try:
            await self._resume(due)
        except DatabaseUnavailable:
            raise
        except Exception as exc:
            self._passes.report(_RESUMPTION, exc)
            return False
        return True

    async def _resume(self, due: work.DueWork) -> None:
        """Begin an answer, or go on with it; end any other work as interrupted."""
        question = await prepare(
            due,
            self._producers.get_responder(),
            database=self._database,
            commits=self._commits,
        )
        if question is None:
            await interrupt(due, self._commits, self._fan_out)
        else:
            self._producers.resume(question)

    async def _report_waiting(self) -> None:
        """Log that answers wait, once a minute: no worker runs, or too few do."""
        now = asyncio.get_running_loop().time()
        if now < self._reported_at + _REPORT_SECONDS:
            return
        count = await self._database.read(
            work.count_waiting, self._terms, _WAITING_SECONDS
        )
        if count:
            self._reported_at = now
            logger.warning(
                "%s for a worker for more than %s s: do enough processes of"
                " `manage.py answer_messages` run?",
                "1 answer waits" if count == 1 else f"{count} answers wait",
                _WAITING_SECONDS,
                extra={"event": "answers_wait"},
            )
