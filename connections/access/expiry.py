"""Credentials that expire under a connection: a warning, then the end."""

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from connections import close_codes
from connections.config.auth_sections import ExpiryConfig
from connections.credentials.verifier import Verifier
from connections.exceptions import Refused
from connections.hub.connection import LiveConnection


def format_moment(moment: datetime | None) -> str | None:
    """Return a moment as it stands in messages: ISO 8601, UTC."""
    if moment is None:
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class ExpiryWatch:
    """
    Holds the connections of one node to the end of their credentials.

    Asked on every beat, about each connection; there is no timer per
    connection. A Django session is looked at again first, for requests over
    HTTP may have extended it.
    """

    def __init__(self, config: ExpiryConfig, verifier: Verifier | None) -> None:
        self._warning = timedelta(seconds=config.warning_seconds)
        self._grace = timedelta(seconds=config.grace_seconds)
        self._verifier = verifier
        self._asking: dict[str, asyncio.Task[None]] = {}

    def check(
        self, connections: Iterable[LiveConnection], now: datetime | None = None
    ) -> None:
        """Warn those whose credential is about to expire; end those where it has."""
        now = now or timezone.now()
        for connection in connections:
            expires_at = connection.expires_at
            if expires_at is None or connection.close_reason is not None:
                continue
            if now >= expires_at + self._grace:
                self._act(connection, self._end)
            elif not connection.is_expiring and now >= expires_at - self._warning:
                self._act(connection, self._warn)

    def _act(
        self, connection: LiveConnection, action: Callable[[LiveConnection], None]
    ) -> None:
        session = connection.credential.session if connection.credential else None
        if session is None or self._verifier is None:
            action(connection)
        elif connection.connection_id not in self._asking:
            asking = self._ask_first(self._verifier, connection, session, action)
            task = asyncio.create_task(asking)
            self._asking[connection.connection_id] = task

    async def _ask_first(
        self,
        verifier: Verifier,
        connection: LiveConnection,
        session: Any,
        action: Callable[[LiveConnection], None],
    ) -> None:
        """Act only if the session has not been extended."""
        expires_at = connection.expires_at
        try:
            credential = await verifier.verify_session(session.session_key)
        except Refused as exc:
            # Nobody can tell now: stale_authorisation_seconds decides.
            if exc.close_reason is not close_codes.UNAVAILABLE:
                action(connection)
        else:
            if connection.expires_at != expires_at:
                return  # It was put on another credential meanwhile.
            if credential.expires_at == expires_at:
                action(connection)
            else:
                connection.renew(credential)
        finally:
            del self._asking[connection.connection_id]

    def _warn(self, connection: LiveConnection) -> None:
        if connection.expires_at is None:
            return
        connection.is_expiring = True
        connection.flight.record("expiry_warned")
        left = connection.expires_at + self._grace - timezone.now()
        connection.sender.send(
            {
                "type": "expiring",
                "expires_at": format_moment(connection.expires_at),
                "after_ms": max(0, int(left.total_seconds() * 1000)),
            }
        )

    def _end(self, connection: LiveConnection) -> None:
        connection.end(close_codes.TOKEN_EXPIRED)
