"""Warn connections whose credential expires, then end them."""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

from connections import close_codes
from connections.background import BackgroundTasks
from connections.config.auth_sections import ExpiryConfig
from connections.credentials.identity import Credential
from connections.credentials.verifier import Verifier
from connections.exceptions import Refused
from connections.hub.connection import LiveConnection
from connections.units import format_moment, utc_now


class ExpiryWatch:
    """
    Warns and ends the connections of one node when their credentials expire.

    The node calls check() on every beat; no connection has a timer. The watch
    reads a Django session again first, because HTTP requests may have extended
    it.
    """

    def __init__(
        self,
        config: ExpiryConfig,
        verifier: Verifier | None,
        renew: Callable[[LiveConnection, Credential], None] = LiveConnection.renew,
    ) -> None:
        self._renew = renew
        self._warning = timedelta(seconds=config.warning_seconds)
        self._grace = timedelta(seconds=config.grace_seconds)
        self._verifier = verifier
        self._asking: set[str] = set()
        self._tasks = BackgroundTasks()

    def check(
        self, connections: Iterable[LiveConnection], now: datetime | None = None
    ) -> None:
        """Warn connections whose credential expires soon; end them after the grace."""
        now = now or utc_now()
        for connection in connections:
            self.check_one(connection, now)

    def check_one(self, connection: LiveConnection, now: datetime) -> None:
        """Warn or end one connection if its credential is due; `now` is aware."""
        expires_at = connection.expires_at
        if expires_at is None or connection.close_reason is not None:
            return
        is_observed = "expiry" in connection.observed
        if is_observed and connection.would_have_ended:
            return
        # A moment near the end of time overflows if anything is added to it.
        if now - self._grace >= expires_at:
            self._apply(connection, self._end)
        elif is_observed or connection.is_expiring:
            return  # A client is not warned of an end that does not come.
        elif now + self._warning >= expires_at:
            self._apply(connection, self._warn)

    def _apply(
        self, connection: LiveConnection, action: Callable[[LiveConnection], None]
    ) -> None:
        session = connection.credential.session if connection.credential else None
        if session is None or self._verifier is None:
            action(connection)
        elif connection.connection_id not in self._asking:
            work = self._apply_unless_extended(
                self._verifier, connection, session, action
            )
            self._asking.add(connection.connection_id)
            self._tasks.start(work, "read the expiry of a session")

    async def _apply_unless_extended(
        self,
        verifier: Verifier,
        connection: LiveConnection,
        session: Any,
        action: Callable[[LiveConnection], None],
    ) -> None:
        """Read the session again; apply the action unless it has been extended."""
        expires_at = connection.expires_at
        try:
            credential = await verifier.verify_session(session.session_key)
        except Refused as exc:
            # While the database is away, stale_authorisation_seconds decides.
            if exc.close_reason is not close_codes.UNAVAILABLE:
                action(connection)
        else:
            if connection.expires_at != expires_at:
                return  # A refresh has changed the credential meanwhile.
            if credential.expires_at == expires_at:
                action(connection)
            else:
                self._renew(connection, credential)
        finally:
            self._asking.discard(connection.connection_id)

    def _warn(self, connection: LiveConnection) -> None:
        if connection.expires_at is None:
            return
        connection.is_expiring = True
        connection.flight.record("expiry_warned")
        left = connection.expires_at - utc_now() + self._grace
        connection.sender.send(
            {
                "type": "expiring",
                "expires_at": format_moment(connection.expires_at),
                "after_ms": max(0, int(left.total_seconds() * 1000)),
            }
        )

    def _end(self, connection: LiveConnection) -> None:
        connection.end_for("expiry", close_codes.TOKEN_EXPIRED)
