"""Commit requests to the log in groups."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from connections.background import make_task_context
from connections.error_log import get_logger
from connections.exceptions import DatabaseUnavailable
from connections.metrics.counters import record_failure
from connections.storage.database import Database
from connections.units import measure_text
from sessions_history.commits import commit
from sessions_history.entries import (
    Append,
    Committed,
    Growth,
    Request,
    Rewrite,
)
from sessions_history.exceptions import LogFull, SessionsError
from sessions_history.limits import LogLimits

logger = get_logger(__name__)

MAX_BATCH_REQUESTS = 500
MAX_BATCH_BYTES = 4_000_000

_GATHER_SECONDS = 0.003
_ENOUGH_REQUESTS = 64
"""How long a batch waits for more requests, and how many make it go at once. A
commit costs half a millisecond of CPU, each further request a tenth of that."""

_MAX_PENDING_REQUESTS = 20_000
_MAX_PENDING_BYTES = 64_000_000

OnCommitted = Callable[[Request, Committed], None]

Queued = tuple[Request, asyncio.Future[Committed], int]
"""A request, the future of its result, and roughly how many bytes it takes."""


class GroupCommit:
    """
    Commits the requests of all sessions of a node every few milliseconds.

    A future's result is committed: it survives the node. Requests are applied in
    the order of their arrival.
    """

    def __init__(
        self,
        database: Database,
        limits: LogLimits,
        on_committed: OnCommitted = lambda request, committed: None,
    ) -> None:
        self._database = database
        self._limits = limits
        self._on_committed = on_committed
        self._pending: deque[Queued] = deque()
        self._pending_bytes = 0
        self._task: asyncio.Task[None] | None = None

    def submit(self, request: Request) -> asyncio.Future[Committed]:
        """
        Queue a request; the future returns its result.

        The future raises DatabaseUnavailable if the result is unknown, and an
        error of sessions_history.exceptions if the request was refused.

        Raises:
            LogFull: the database is too far behind.
        """
        size_bytes = _measure(request)
        # One that is larger than all may be would never have room.
        if self._pending and (
            len(self._pending) >= _MAX_PENDING_REQUESTS
            or self._pending_bytes + size_bytes > _MAX_PENDING_BYTES
        ):
            raise LogFull
        future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        self._pending.append((request, future, size_bytes))
        self._pending_bytes += size_bytes
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(
                self._write(),
                name="The commits of the log",
                context=make_task_context(),
            )
        return future

    async def flush(self) -> None:
        """Wait until every queued request is committed or has failed."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    async def _write(self) -> None:
        while self._pending:
            if len(self._pending) < _ENOUGH_REQUESTS:
                await asyncio.sleep(_GATHER_SECONDS)
            batch = self._take()
            requests = [request for request, _, _ in batch]
            try:
                results = await self._database.write_urgently(
                    commit, requests, self._limits
                )
            except Exception as exc:
                # Whatever the error, no future waits for ever, and the next batch runs.
                record_failure("The commit of the log")
                self._fail(batch, exc)
            else:
                self._settle(batch, results)

    def _take(self) -> list[Queued]:
        """Take the next batch out of the queue."""
        batch: list[Queued] = []
        size_bytes = 0
        while self._pending and len(batch) < MAX_BATCH_REQUESTS:
            request_bytes = self._pending[0][2]
            if batch and size_bytes + request_bytes > MAX_BATCH_BYTES:
                break
            batch.append(self._pending.popleft())
            size_bytes += request_bytes
        self._pending_bytes -= size_bytes
        return batch

    def _fail(self, batch: Sequence[Queued], exc: Exception) -> None:
        """Fail the futures of a batch: the results of its requests are unknown."""
        logger.error(
            "%s entries could not be written: %s",
            len(batch),
            exc,
            exc_info=None if isinstance(exc, DatabaseUnavailable) else exc,
            extra={"event": "append_failed"},
        )
        for _, future, _ in batch:
            if not future.cancelled():
                future.set_exception(DatabaseUnavailable(str(exc)))

    def _settle(
        self, batch: Sequence[Queued], results: Sequence[Committed | SessionsError]
    ) -> None:
        # All futures first: a connection gets its acks and entries in one piece.
        for (_, future, _), result in zip(batch, results, strict=True):
            if future.cancelled():
                continue
            if isinstance(result, Committed):
                future.set_result(result)
            else:
                future.set_exception(result)
        for (request, _, _), result in zip(batch, results, strict=True):
            if not isinstance(result, Committed):
                continue
            try:
                self._on_committed(request, result)
            except Exception as exc:
                record_failure("The report of a commit")
                logger.error(
                    "A commit could not be reported: %s",
                    exc,
                    exc_info=exc,
                    extra={"event": "commit_report_failed"},
                )


def _measure(request: Request) -> int:
    """Return roughly how many bytes a request takes: those of its texts."""
    if isinstance(request, Append):
        size_bytes = sum(measure_text(entry.data) for entry in request.entries)
        return size_bytes + len(request.metadata) + len(request.stored_claims)
    if not isinstance(request, Growth | Rewrite):
        return 0
    text = request.text if isinstance(request, Growth) else ""
    return sum(map(measure_text, (text, request.parts, request.data or "")))
