"""End idle connections, and record the activity of the others."""

from channels.db import aclose_old_connections

from connections import close_codes
from connections.access.expiry import ExpiryWatch
from connections.background import BackgroundTasks
from connections.hub.connection import LiveConnection
from connections.hub.hub import Hub
from connections.node.recorder import Recorder
from connections.storage.database import Database
from connections.units import Clock, utc_now

EXPIRY_CHECK = "The check for expired credentials"
IDLE_CHECK = "The check for idle connections"

_UNLIMITED_SECONDS = 300
"""Used instead of the idle timeout for connections without one."""


class ActivityWatch:
    """Checks the connections of one node from memory alone, once a beat."""

    def __init__(
        self,
        *,
        hub: Hub,
        expiry: ExpiryWatch,
        recorder: Recorder | None,
        database: Database | None,
        clock: Clock,
    ) -> None:
        self._database = database
        self._hub = hub
        self._expiry = expiry
        self._recorder = recorder
        self._clock = clock
        self._cleaning = BackgroundTasks()

    async def check_expiry(self) -> bool:
        """Warn and end connections by their credentials; False if one failed."""
        moment = utc_now()
        return await self._hub.for_each_in_slices(
            EXPIRY_CHECK,
            lambda connection: self._expiry.check_one(connection, moment),
        )

    async def check_idle(self) -> bool:
        """End idle connections, record activity; False if a connection failed."""
        now = self._clock()
        # Handlers may use Django's ORM in the shared thread, where Channels
        # closes stale database connections around every single message.
        is_in_test = self._database is not None and self._database.is_in_test
        if not self._cleaning and not is_in_test:
            self._cleaning.start(aclose_old_connections(), "The stale connections")
        return await self._hub.for_each_in_slices(
            IDLE_CHECK, lambda connection: self._check_idle(connection, now)
        )

    async def check(self) -> None:
        """Make both checks once."""
        await self.check_expiry()
        await self.check_idle()

    async def stop(self) -> None:
        """Stop closing stale database connections."""
        await self._cleaning.stop()

    def _check_idle(self, connection: LiveConnection, now: float) -> None:
        timeout_seconds = connection.limits.idle_timeout_seconds
        active_at = connection.last_activity
        silence = connection.idle_seconds(now)
        if silence > connection.longest_silence:
            connection.longest_silence, connection.silent_from = silence, active_at
        if timeout_seconds and silence >= timeout_seconds:
            connection.end_for("idle", close_codes.IDLE)
        elif active_at != connection.written_activity:
            self._record_activity(connection)

    def _record_activity(self, connection: LiveConnection) -> None:
        """Record activity at intervals of a tenth of the idle timeout."""
        timeout_seconds = connection.limits.idle_timeout_seconds or _UNLIMITED_SECONDS
        moved_seconds = connection.last_activity - connection.written_activity
        if self._recorder is not None and moved_seconds >= timeout_seconds / 10:
            self._recorder.record_change(connection)
