"""Close requests: which connections of this node they end, and when."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.db.models import DurationField, ExpressionWrapper, F
from django.db.models.functions import Now

from connections import close_codes
from connections.access.reauthorisation import Reauthoriser
from connections.announcements import (
    CLOSE_REQUESTS,
    REAUTHORISE,
    listen,
    stop_listening,
)
from connections.close_codes import CLOSE_REASONS
from connections.hub.connection import LiveConnection
from connections.hub.hub import Hub, make_selector
from connections.models import CloseRequest
from connections.node.recorder import Recorder
from connections.storage.database import Database
from connections.units import Clock

if TYPE_CHECKING:
    from connections.redis.bus import RedisBus

_TOLERANCE_SECONDS = 5
"""How far off it may be what a request's age says of when it was posted."""

_READ_SECONDS = 60
"""How far back requests are read, beyond the last time that this succeeded."""

_MOST_READ_SECONDS = 86_400
_REMEMBERED_REQUESTS = 100_000

Selector = Callable[[LiveConnection], bool]


class AppliedRequests:
    """
    Applies close requests to the hub of one node, each once.

    What was on its way in by then (its handshake had begun, its slot was not
    taken) is ended as it joins; what arrived later came back by itself and may
    stay.
    """

    def __init__(
        self,
        *,
        hub: Hub,
        recorder: Recorder | None,
        reauthoriser: Reauthoriser,
        forget: Callable[[str, str], None] | None,
        node_id: str,
        clock: Clock,
    ) -> None:
        self._hub = hub
        self._reauthoriser = reauthoriser
        self._forget = forget
        self._recorder = recorder
        self._node_id = node_id
        self._clock = clock
        self._applied: dict[int, None] = {}
        # Those of the last minute, whom they mean, when they were applied, and until
        # when a handshake had to begin to be meant.
        self._recent: dict[int, tuple[CloseRequest, Selector, float, float]] = {}

    def apply(self, request: CloseRequest, age_seconds: float = 0) -> int:
        """
        End what a request names, unless it was applied; return how many.

        How old it is only the database's clock can say: that of this node may
        be hours off.
        """
        if request.pk in self._applied:
            return 0
        now = self._clock()
        latest = min(now, now - age_seconds + _TOLERANCE_SECONDS)
        if self._forget is not None:
            self._forget(request.target, request.value)
        self._applied[request.pk] = None
        if len(self._applied) > _REMEMBERED_REQUESTS:
            del self._applied[next(iter(self._applied))]
        if not request.idle_seconds:
            is_meant = make_selector(request.target, request.value, self._node_id)
            self._recent[request.pk] = request, is_meant, now, latest
        found = self._hub.select(request.target, request.value, self._node_id)
        return sum(self._end(connection, request, now, latest) for connection in found)

    def apply_to(self, connection: LiveConnection) -> None:
        """End a connection that joins, if it was meant by what was applied."""
        if not self._recent:
            return
        oldest = self._clock() - _READ_SECONDS
        for request, is_meant, applied_at, latest in list(self._recent.values()):
            if applied_at < oldest:
                del self._recent[request.pk]
            elif is_meant(connection):
                self._end(connection, request, applied_at, latest)

    def _end(
        self,
        connection: LiveConnection,
        request: CloseRequest,
        applied_at: float,
        latest: float,
    ) -> bool:
        """End a connection, now or in its turn; return whether it is to end."""
        if connection.arrived > latest and not _is_final(request):
            return False
        if request.reason == REAUTHORISE:
            self._reauthoriser.ask(connection)
            return True
        idle_seconds = request.idle_seconds
        if idle_seconds and connection.idle_seconds(applied_at) < idle_seconds:
            # The row is behind: write the true time, so that the sweeper does
            # not ask again and again.
            if self._recorder is not None:
                self._recorder.record_change(connection)
            return False
        close_reason = CLOSE_REASONS.get(request.reason, close_codes.KICKED)
        if not request.spread_seconds:
            return connection.end(close_reason)
        after_seconds = random.uniform(0, request.spread_seconds)
        asyncio.get_running_loop().call_later(
            after_seconds, connection.end, close_reason
        )
        return True


class IncomingRequests:
    """
    Reads close requests: on every beat, and at once when new ones are announced.

    An announcement says no more than that it is time to look: what counts is
    the database, and what was announced in vain is found a beat later.
    """

    def __init__(
        self,
        applied: AppliedRequests,
        *,
        database: Database,
        bus: RedisBus | None,
        clock: Clock,
        poll_others: Callable[[], Awaitable[None]],
    ) -> None:
        self._applied = applied
        self._poll_others = poll_others
        self._database = database
        self._bus = bus
        self._clock = clock
        self._read_at = clock()
        self._due = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._publishing: asyncio.Task[bool] | None = None
        if bus is not None:
            bus.on_message(CLOSE_REQUESTS, lambda message: self._due.set())
            bus.on_return(self._due.set)

    def start(self) -> None:
        """Begin to be told of what this process posts."""
        listen(self._hear)

    def stop(self) -> None:
        """Be told nothing more."""
        stop_listening(self._hear)

    async def poll(self) -> None:
        """
        Read and apply what is new, then look on at what else was announced.

        Raises:
            DatabaseUnavailable: it is read the next time, however late that is.
        """
        started = self._clock()
        since_seconds = _READ_SECONDS + started - self._read_at
        for request, age in await self._database.read(_read, since_seconds):
            self._applied.apply(request, age.total_seconds())
        self._read_at = started
        await self._poll_others()

    async def poll_when_announced(self) -> None:
        """Wait for an announcement, then look."""
        await self._due.wait()
        self._due.clear()
        await self.poll()

    def _hear(self) -> bool:
        """Note an announcement of this process; runs in any thread."""
        try:
            self._loop.call_soon_threadsafe(self._pass_on)
        except RuntimeError:
            return False  # The loop has ended, and the node with it.
        return self._bus is not None

    def _pass_on(self) -> None:
        self._due.set()
        if self._bus is not None:
            publishing = self._bus.publish(CLOSE_REQUESTS, {})
            self._publishing = self._loop.create_task(publishing)


def _is_final(request: CloseRequest) -> bool:
    """
    Tell whether nobody can rightly be back whom a request names.

    Django announces a logout before it deletes the session: in between, a
    handshake finds the session still there. No session is logged in to twice
    under one key.
    """
    is_session = request.target == CloseRequest.Target.SESSION_KEY
    return is_session and request.reason == close_codes.LOGGED_OUT.reason


def _read(since_seconds: float) -> list[tuple[CloseRequest, timedelta]]:
    """Return requests and how old they are."""
    seconds = min(since_seconds, _MOST_READ_SECONDS)
    age = ExpressionWrapper(Now() - F("created_at"), DurationField())
    recent = CloseRequest.objects.recent(seconds).order_by("id")
    found: Iterable[Any] = recent.annotate(age=age)
    return [(request, request.age) for request in found]
