"""Check periodically, and on request, whether connections may stay."""

import asyncio
import contextlib
import random
from collections.abc import Sequence

from channels.db import database_sync_to_async

from connections import close_codes
from connections.close_codes import CloseReason
from connections.config.loader import WebSocketConfig
from connections.credentials.authentication import Authenticator
from connections.credentials.identity import Credential
from connections.credentials.recheck import AuthorisationSnapshot, find_close_reasons
from connections.deadline import deadline
from connections.exceptions import DatabaseUnavailable, Refused
from connections.hub.connection import LiveConnection
from connections.hub.hub import Hub
from connections.storage.database import Database
from connections.units import Clock

_MOST_AT_ONCE = 500
_MORE_AT_ONCE = 10
_TIMEOUT_SECONDS = 2
_MOST_PAUSE_SECONDS = 1


class Reauthoriser:
    """
    Checks the connections of one node against the database.

    Each connection is checked once within reauthorise_seconds, at its own
    moment, and at once after ask(); hundreds share one query, and fewer after one
    that failed. The few viewers of the dashboard are checked in every poll.
    Credentials of backends with may_stay() are then put to these. While the database
    is away, or a backend fails, the last answer stands for
    stale_authorisation_seconds.
    """

    def __init__(
        self,
        config: WebSocketConfig,
        *,
        hub: Hub,
        database: Database | None,
        authenticator: Authenticator,
        clock: Clock,
    ) -> None:
        self._hub = hub
        self._database = database
        self._authenticator = authenticator
        self._clock = clock
        self._stale_seconds = config.stale_authorisation_seconds
        self.pause_seconds = min(_MOST_PAUSE_SECONDS, config.reauthorise_seconds / 4)
        # A check may come a pause late.
        self._period_seconds = config.reauthorise_seconds - self.pause_seconds
        self._is_asked = asyncio.Event()
        self._at_once = _MOST_AT_ONCE

    async def require(self, connection: LiveConnection) -> None:
        """
        Check a handshake against the requirements of its consumer.

        Raises:
            Refused: the user lacks a requirement, or the database is away.
        """
        if not connection.requirements:
            return
        snapshot = _describe(connection)
        try:
            found = await self._find_close_reasons([snapshot])
        except (DatabaseUnavailable, TimeoutError) as exc:
            raise Refused(close_codes.UNAVAILABLE) from exc
        answer = found.get(snapshot.connection_id)
        if isinstance(answer, Exception):
            raise answer
        if answer is not None:
            raise Refused(answer)

    def expect(self, connection: LiveConnection) -> None:
        """Schedule the first check of a connection that was admitted."""
        connection.authorised_at = connection.arrived
        self._schedule(connection, connection.arrived, least=0.25)

    def ask(self, connection: LiveConnection) -> None:
        """Schedule the check of a connection for now."""
        connection.reauthorise_at = self._clock()
        self._is_asked.set()

    async def poll_when_due(self) -> bool:
        """Wait for ask() or a short pause; then poll(), and return its result."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.pause_seconds):
                await self._is_asked.wait()
        self._is_asked.clear()
        return await self.poll()

    async def poll(self) -> bool:
        """
        Check the connections that are due, and end those that may not stay.

        A failure ends the poll. The next one begins with those that have waited
        longest, so that one slow query keeps no other connections from their check.

        Returns False if the check of a connection failed; the others were checked.

        Raises:
            DatabaseUnavailable, TimeoutError: the database did not answer.
            Exception: the session store failed in a way of its own.
        """
        now = self._clock()
        due: list[LiveConnection] = []

        def add_if_asked(one: LiveConnection) -> None:
            if one.close_reason is None and _describe(one):
                due.append(one)

        # Few of many are due: a call for each of the others would cost 1 µs a second.
        reached = [one for one in self._hub if one.reauthorise_at <= now]
        is_whole = await self._hub.for_each_in_slices(
            "The search for due authorisations",
            add_if_asked,
            (*reached, *self._hub.viewers.values()),
        )
        due.sort(key=lambda one: one.reauthorise_at)
        checked = 0
        try:
            while checked < len(due):
                some = due[checked : checked + self._at_once]
                is_whole &= await self._check_connections(some)
                checked += len(some)
                if len(some) == self._at_once:
                    self._at_once = min(_MOST_AT_ONCE, len(some) + _MORE_AT_ONCE)
        except BaseException as exc:
            self._at_once = max(1, self._at_once // 2)
            await self._end_stale(due[checked:])
            if isinstance(exc, Exception):
                await self._ask_backends(due[:checked])
            raise
        return is_whole & await self._ask_backends(due)

    async def _check_connections(self, connections: Sequence[LiveConnection]) -> bool:
        asked_at = self._clock()
        snapshots = [_describe(one) for one in connections]
        for connection in connections:
            # An ask() during the query stays in force.
            self._schedule(connection, asked_at)
        try:
            answers = await self._find_close_reasons(snapshots)
        except BaseException:
            for connection in connections:
                connection.reauthorise_at = asked_at
            raise
        failed: list[LiveConnection] = []
        described = {one.connection_id: one for one in snapshots}

        def apply(connection: LiveConnection) -> None:
            if _describe(connection) != described[connection.connection_id]:
                self.ask(connection)  # Its credentials have changed since.
                return
            answer = answers.get(connection.connection_id)
            if isinstance(answer, Exception):
                failed.append(connection)
                raise answer
            is_ending = answer is not None
            if answer is close_codes.TOKEN_EXPIRED:
                connection.has_expired = True
                is_ending = connection.end_for("expiry", answer)
            elif answer is not None:
                connection.end(answer)
            if not is_ending and _find_deciding(connection) is None:
                connection.authorised_at = asked_at

        name = "The re-authorisation"
        is_whole = await self._hub.for_each_in_slices(name, apply, connections)
        await self._end_stale(failed)
        return is_whole

    async def _ask_backends(self, connections: Sequence[LiveConnection]) -> bool:
        """Put credentials to their backends; return False if one of these failed."""
        asked_at = self._clock()
        asked = {
            connection: credential
            for connection in connections
            if (credential := _find_deciding(connection)) is not None
            and connection.close_reason is None
        }
        if not asked:
            return True
        answers = await self._authenticator.find_close_reasons(list(asked.values()))
        failed: list[LiveConnection] = []

        def apply(connection: LiveConnection) -> None:
            answer = answers[asked[connection]]
            if connection.credential is not asked[connection]:
                self.ask(connection)  # It has changed since.
            elif isinstance(answer, Exception):
                failed.append(connection)
            elif answer is not None:
                connection.end(answer)
            else:
                connection.authorised_at = asked_at

        name = "The re-authorisation by backends"
        is_whole = await self._hub.for_each_in_slices(name, apply, list(asked))
        await self._end_stale(failed)
        return is_whole and not failed

    async def _find_close_reasons(
        self, snapshots: Sequence[AuthorisationSnapshot]
    ) -> dict[str, CloseReason | Exception]:
        if self._database is None:
            found: dict[str, CloseReason | Exception] = await database_sync_to_async(
                find_close_reasons
            )(snapshots)
            return found
        async with deadline(_TIMEOUT_SECONDS):
            return await self._database.read(find_close_reasons, snapshots)

    async def _end_stale(self, connections: Sequence[LiveConnection]) -> None:
        """End connections whose last positive answer is too old."""
        oldest = self._clock() - self._stale_seconds
        stale = [one for one in connections if one.authorised_at < oldest]
        await self._hub.for_each_in_slices(
            "The end of stale authorisations",
            lambda connection: connection.end(close_codes.UNAVAILABLE),
            stale,
        )

    def _schedule(
        self, connection: LiveConnection, now: float, *, least: float = 0.75
    ) -> None:
        # Connections that arrived together, after a deploy, are checked apart.
        after_seconds = self._period_seconds * random.uniform(least, 1)
        connection.reauthorise_at = now + after_seconds


def _find_deciding(connection: LiveConnection) -> Credential | None:
    """Return the credential of a connection if the may_stay() of a backend decides."""
    credential = connection.credential
    return credential if credential is not None and credential.backend else None


def _describe(connection: LiveConnection) -> AuthorisationSnapshot:
    credential = connection.credential
    session = credential.session if credential else None
    return AuthorisationSnapshot(
        connection_id=connection.connection_id,
        user_id=connection.user_id,
        token_id=connection.token_id,
        session_key=session.session_key if session is not None else None,
        password_hash=credential.password_hash if credential else "",
        backend=credential.backend if credential else "",
        expires_at=connection.expires_at,
        has_expired=connection.has_expired,
        requirements=connection.requirements,
    )
