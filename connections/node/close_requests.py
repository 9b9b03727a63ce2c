"""Read close requests, and end the connections of this node that they select."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

from connections import close_codes
from connections.access.reauthorisation import Reauthoriser
from connections.announcements import (
    CLOSE_REQUESTS,
    FORGET,
    REAUTHORISE,
    listen,
    stop_listening,
)
from connections.background import BackgroundTasks
from connections.close_codes import CLOSE_REASONS, CloseReason
from connections.hub.connection import LiveConnection
from connections.hub.hub import Hub
from connections.hub.index import is_named
from connections.models import CloseRequest
from connections.node.new_rows import NewRows
from connections.node.recent_requests import AppliedRequest, RecentRequests
from connections.node.recorder import Recorder
from connections.slices import Slices
from connections.storage.database import Database
from connections.units import Clock

if TYPE_CHECKING:
    from connections.bus import Bus

_TOLERANCE_SECONDS = 5
"""How far the age of a request may be off."""

_REMEMBERED_SECONDS = 60
"""How long a request waits for connections whose handshake had begun."""

_SLICE_SECONDS = 0.005
"""How long requests are applied until other tasks run."""

_LOST_RIGHTS = frozenset(
    one.reason
    for one in (
        close_codes.BANNED,
        close_codes.DEACTIVATED,
        close_codes.FORBIDDEN,
        close_codes.LOGGED_OUT,
        close_codes.REVOKED,
    )
) | {REAUTHORISE}
"""The reasons that also end a connection of the dashboard."""


class AppliedRequests:
    """
    Applies close requests to the hub of one node, each once.

    A request also ends a matching connection whose handshake had begun by then,
    as soon as that connection joins. Later reconnects are unaffected.
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
        clear_top: Callable[[], None] | None = None,
    ) -> None:
        self._hub = hub
        self._reauthoriser = reauthoriser
        self._forget = forget
        self._clear_top = clear_top
        self._recorder = recorder
        self._node_id = node_id
        self._clock = clock
        self._recent = RecentRequests(node_id, _REMEMBERED_SECONDS)

    async def apply(
        self,
        request: CloseRequest,
        age_seconds: float = 0,
        slices: Slices | None = None,
    ) -> int:
        """
        End the connections a request selects in slices, and return how many.

        age_seconds counts from the commit, as far as this node can tell.
        """
        now = self._clock()
        latest = min(now, now - age_seconds + _TOLERANCE_SECONDS)
        if self._forget is not None:
            self._forget(request.target, request.value)
        if request.reason == FORGET and self._clear_top is not None:
            self._clear_top()
        if not request.idle_seconds:
            self._recent.add(
                AppliedRequest(request=request, applied_at=now, latest=latest)
            )
        self._apply_to_viewers(request, latest)
        ended: list[LiveConnection] = []

        def end(connection: LiveConnection) -> None:
            if self._end(connection, request, now, latest):
                ended.append(connection)

        found = self._hub.select(request.target, request.value, self._node_id)
        name = "The application of a close request"
        await self._hub.for_each_in_slices(name, end, found, slices)
        return len(ended)

    async def apply_all(
        self, requests: Iterable[tuple[CloseRequest, timedelta]]
    ) -> bool:
        """
        Apply requests with their ages, equal ones once; let other tasks run.

        Returns False if one of them failed, or failed for a connection.
        """
        name, passes = "The application of close requests", self._hub.passes
        is_whole, slices = True, Slices(_SLICE_SECONDS)
        for request, age in _join_equal(requests):
            failures = passes.failures
            await passes.attempt_work(
                name, self.apply(request, age.total_seconds(), slices)
            )
            is_whole &= passes.failures == failures
            await slices.check()
        self._recent.forget_old(self._clock())
        return passes.finish(name, is_whole=is_whole)

    def _apply_to_viewers(self, request: CloseRequest, latest: float) -> None:
        """End viewers of the dashboard that lost a right; a kick concerns clients."""
        if request.reason not in _LOST_RIGHTS:
            return

        def end(viewer: LiveConnection) -> None:
            if _is_later(viewer, request, latest) or not is_named(
                viewer, request.target, request.value, self._node_id
            ):
                return
            if request.reason == REAUTHORISE:
                self._reauthoriser.ask(viewer)
            else:
                viewer.end(CLOSE_REASONS[request.reason])

        viewers = list(self._hub.viewers.values())
        self._hub.for_each("The end of viewers", end, viewers)

    def apply_to(self, connection: LiveConnection) -> None:
        """End a joining connection that a request of the last minute selects."""
        for applied in self._recent.find(connection, self._clock()):
            self._end(connection, applied.request, applied.applied_at, applied.latest)

    def _end(
        self,
        connection: LiveConnection,
        request: CloseRequest,
        applied_at: float,
        latest: float,
    ) -> bool:
        """End a connection at once or spread out; return whether it will end."""
        if _is_later(connection, request, latest):
            return False
        if request.reason == REAUTHORISE:
            self._reauthoriser.ask(connection)
            return True
        idle_seconds = request.idle_seconds
        if idle_seconds and connection.idle_seconds(applied_at) < idle_seconds:
            # The row is out of date: record the true activity, so that the
            # sweeper does not repeat its request.
            if self._recorder is not None:
                self._recorder.record_change(connection)
            return False
        close_reason = CLOSE_REASONS.get(request.reason, close_codes.KICKED)
        if close_reason is close_codes.IDLE and idle_seconds:
            return connection.end_for("idle", close_reason)
        if not request.spread_seconds:
            return connection.end(close_reason)
        after_seconds = random.uniform(0, request.spread_seconds)
        asyncio.get_running_loop().call_later(
            after_seconds, self._end_if_open, connection.connection_id, close_reason
        )
        return True

    def _end_if_open(self, connection_id: str, close_reason: CloseReason) -> None:
        # A timer that referred to the connection would keep it after its end.
        connection = self._hub.get(connection_id)
        if connection is not None:
            connection.end(close_reason)


class IncomingRequests:
    """
    Reads close requests on every beat, and at once when new ones are announced.

    An announcement has no content; the requests are in the database. Where an
    announcement is lost, the next beat finds the requests.
    """

    def __init__(
        self,
        applied: AppliedRequests,
        *,
        database: Database,
        bus: Bus | None,
        clock: Clock,
        poll: Callable[[], Awaitable[None]],
    ) -> None:
        self._applied = applied
        self._poll = poll
        self._database = database
        self._bus = bus
        self._new = NewRows(CloseRequest, clock)
        self._due = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._tasks = BackgroundTasks()
        if bus is not None:
            bus.on_message(CLOSE_REQUESTS, lambda message: self._due.set())
            bus.on_return(self._due.set)

    def start(self) -> None:
        """Begin to receive the announcements of this process."""
        listen(self._on_announcement)

    async def stop(self) -> None:
        """Receive no more announcements."""
        stop_listening(self._on_announcement)
        await self._tasks.stop()

    async def poll(self) -> bool:
        """
        Read and apply new requests; return False if one failed.

        Raises:
            DatabaseUnavailable: the next poll reads them, however late that is.
        """
        return await self._applied.apply_all(await self._new.poll(self._database))

    async def poll_when_announced(self) -> None:
        """Wait for an announcement, then poll all that may have been announced."""
        await self._due.wait()
        self._due.clear()
        await self._poll()

    def _on_announcement(self) -> bool:
        """Schedule a poll; return whether this node tells others. Thread-safe."""
        try:
            self._loop.call_soon_threadsafe(self._pass_on)
        except RuntimeError:
            return False  # The loop has ended, and the node with it.
        return self._bus is not None

    def _pass_on(self) -> None:
        self._due.set()
        if self._bus is not None:
            self._tasks.start(self._publish(self._bus), "The announcement of requests")

    async def _publish(self, bus: Bus) -> None:
        await bus.publish(CLOSE_REQUESTS, {})


def _is_later(connection: LiveConnection, request: CloseRequest, latest: float) -> bool:
    """Return True if a connection may stay because it arrived after a request."""
    return connection.arrived > latest and not _is_final(request)


def _is_final(request: CloseRequest) -> bool:
    """
    Return True if the target cannot legitimately reconnect.

    Django announces a logout before it deletes the session, so a handshake in
    between still finds the session. A session key is never used for a second
    login.
    """
    is_session = request.target == CloseRequest.Target.SESSION_KEY
    return is_session and request.reason == close_codes.LOGGED_OUT.reason


def _join_equal(
    requests: Iterable[tuple[CloseRequest, timedelta]],
) -> list[tuple[CloseRequest, timedelta]]:
    """Return the requests without those that a later one repeats."""
    latest: dict[tuple[object, ...], tuple[CloseRequest, timedelta]] = {}
    for request, age in requests:
        key = (
            *(request.target, request.value, request.reason),
            *(request.idle_seconds, request.spread_seconds),
        )
        former = latest.pop(key, None)
        latest[key] = request, min(age, former[1]) if former else age
    return list(latest.values())
