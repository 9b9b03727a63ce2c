"""The right to stay: looked at again, now and then and when somebody says so."""

import asyncio
import contextlib
import random
from collections.abc import Sequence

from channels.db import database_sync_to_async

from connections import close_codes
from connections.close_codes import CloseReason
from connections.config.loader import WebSocketConfig
from connections.credentials.recheck import AuthorisationSnapshot, find_close_reasons
from connections.exceptions import DatabaseUnavailable, Refused
from connections.hub.connection import LiveConnection
from connections.hub.hub import Hub
from connections.storage.database import Database
from connections.units import Clock

_CONNECTIONS_PER_POLL = 500
_TIMEOUT_SECONDS = 2
_MOST_PAUSE_SECONDS = 1


class Reauthoriser:
    """
    Holds the connections of one node against the database.

    Each is looked at within reauthorise_seconds of the last time, at a moment
    of its own, and at once after ask(); hundreds share a look. While the
    database is away the last answer stands for stale_authorisation_seconds.
    """

    def __init__(
        self,
        config: WebSocketConfig,
        *,
        hub: Hub,
        database: Database | None,
        clock: Clock,
    ) -> None:
        self._hub = hub
        self._database = database
        self._clock = clock
        self._stale_seconds = config.stale_authorisation_seconds
        self._pause_seconds = min(_MOST_PAUSE_SECONDS, config.reauthorise_seconds / 4)
        # A look may come a pause late.
        self._period_seconds = config.reauthorise_seconds - self._pause_seconds
        self._is_asked = asyncio.Event()

    async def require(self, connection: LiveConnection) -> None:
        """
        Hold a handshake against what its consumer requires of users.

        Raises:
            Refused: the user lacks something, or nobody can tell now.
        """
        if not connection.requirements:
            return
        snapshot = _describe(connection)
        try:
            close_reason = (await self._find_close_reasons([snapshot])).get(
                snapshot.connection_id
            )
        except (DatabaseUnavailable, TimeoutError) as exc:
            raise Refused(close_codes.UNAVAILABLE) from exc
        if close_reason is not None:
            raise Refused(close_reason)

    def expect(self, connection: LiveConnection) -> None:
        """Begin to look after a connection that has been let in."""
        connection.authorised_at = connection.arrived
        self._put_off(connection, connection.arrived, least=0.25)

    def ask(self, connection: LiveConnection) -> None:
        """Have a connection looked at now."""
        connection.reauthorise_at = self._clock()
        self._is_asked.set()

    async def poll_when_due(self) -> None:
        """Wait until somebody asks, or a moment; then look at what is due."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._pause_seconds):
                await self._is_asked.wait()
        self._is_asked.clear()
        await self.poll()

    async def poll(self) -> None:
        """
        Look at the connections that are due, and end those that may not stay.

        Raises:
            DatabaseUnavailable: nobody can tell now.
        """
        now = self._clock()
        due = [
            one
            for one in self._hub
            if one.reauthorise_at <= now and one.close_reason is None and _describe(one)
        ]
        for start in range(0, len(due), _CONNECTIONS_PER_POLL):
            try:
                await self._check_connections(
                    due[start : start + _CONNECTIONS_PER_POLL]
                )
            except Exception as exc:
                # Sessions may be anywhere, and fail in ways of their own.
                self._end_stale(due)
                raise DatabaseUnavailable("the right to stay is not known") from exc

    async def _check_connections(self, connections: Sequence[LiveConnection]) -> None:
        asked_at = self._clock()
        snapshots = [_describe(one) for one in connections]
        for connection in connections:
            # What is asked for while we wait for the answer stays asked for.
            self._put_off(connection, asked_at)
        try:
            close_reasons = await self._find_close_reasons(snapshots)
        except BaseException:
            for connection in connections:
                connection.reauthorise_at = asked_at
            raise
        for connection, snapshot in zip(connections, snapshots, strict=True):
            if _describe(connection) != snapshot:
                self.ask(connection)  # It has other credentials since.
            elif close_reason := close_reasons.get(snapshot.connection_id):
                connection.end(close_reason)
            else:
                connection.authorised_at = asked_at

    async def _find_close_reasons(
        self, snapshots: Sequence[AuthorisationSnapshot]
    ) -> dict[str, CloseReason]:
        if self._database is None:
            found: dict[str, CloseReason] = await database_sync_to_async(
                find_close_reasons
            )(snapshots)
            return found
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            return await self._database.read(find_close_reasons, snapshots)

    def _end_stale(self, connections: Sequence[LiveConnection]) -> None:
        """End those whose right was last known too long ago."""
        oldest = self._clock() - self._stale_seconds
        for connection in connections:
            if connection.authorised_at < oldest:
                connection.end(close_codes.UNAVAILABLE)

    def _put_off(
        self, connection: LiveConnection, now: float, *, least: float = 0.75
    ) -> None:
        # Connections that came together, after a deploy, are looked at apart.
        after_seconds = self._period_seconds * random.uniform(least, 1)
        connection.reauthorise_at = now + after_seconds


def _describe(connection: LiveConnection) -> AuthorisationSnapshot:
    session = connection.credential.session if connection.credential else None
    return AuthorisationSnapshot(
        connection_id=connection.connection_id,
        user_id=connection.user_id,
        token_id=connection.token_id,
        session_key=session.session_key if session is not None else None,
        requirements=connection.requirements,
    )
