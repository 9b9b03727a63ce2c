"""What keeps a client out, from memory: bans, and credentials too often wrong."""

import asyncio
import contextlib
from collections.abc import Iterator

from connections import close_codes
from connections.access.ban_list import Bans, Version
from connections.access.failed_attempts import FailedCredentials
from connections.config.loader import WebSocketConfig
from connections.exceptions import DatabaseUnavailable, Refused
from connections.hub.connection import LiveConnection
from connections.hub.hub import Hub
from connections.storage.database import Database
from connections.units import Clock

_LOAD_SECONDS = 2


class Gate:
    """
    The gate of one node: asked at its handshakes, true to the database.

    Bans are read when they changed, on each beat and at once when one is
    announced; all of them again every reauthorise_seconds, for what changed
    without a trace (QuerySet.update). While the database is away the last ones
    read stand.
    """

    def __init__(
        self,
        config: WebSocketConfig,
        *,
        hub: Hub,
        database: Database | None,
        clock: Clock,
    ) -> None:
        self.bans = Bans(clock)
        self.failures = FailedCredentials(config.handshake, clock)
        self._hub = hub
        self._database = database
        self._clock = clock
        self._reread_seconds = config.reauthorise_seconds
        self._version: Version | None = None
        self._read_at = clock()
        self._turn = asyncio.Lock()

    async def open(self) -> None:
        """
        Read the bans if they were never read.

        Raises:
            Refused: nobody can tell now who is banned.
        """
        if self._version is not None or self._database is None:
            return
        try:
            async with asyncio.timeout(_LOAD_SECONDS):
                await self.refresh()
        except (DatabaseUnavailable, TimeoutError) as exc:
            raise Refused(close_codes.UNAVAILABLE) from exc

    async def refresh(self) -> None:
        """
        Know the bans of the database, and end the connections they concern.

        Raises:
            DatabaseUnavailable: those known so far stand.
        """
        if self._database is None:
            return
        async with self._turn:
            now = self._clock()
            is_stale = now - self._read_at >= self._reread_seconds
            known = None if is_stale else self._version
            self._version = await self._database.read(self.bans.load, known)
            if self._version == known:
                return
            self._read_at = now
        for connection in self._hub:
            self.apply_to(connection)

    def check_address(self, address: str) -> None:
        """
        Decide about an address before its credential is looked at.

        Raises:
            Refused: it is banned, or failed too often.
        """
        if self.bans.holds_out(address=address):
            raise Refused(close_codes.BANNED)
        if self.failures.is_limited(address):
            raise Refused(close_codes.RATE_LIMITED)

    @contextlib.contextmanager
    def counting_failures(self, address: str) -> Iterator[None]:
        """Count it against an address when a credential turns out to be unknown."""
        try:
            yield
        except Refused as exc:
            if exc.close_reason is close_codes.UNAUTHENTICATED and address:
                self.failures.record(address)
            raise

    def check(self, client_id: str, user_id: object, address: str) -> None:
        """
        Decide about a client that is known.

        Raises:
            Refused: it is banned.
        """
        if self.bans.holds_out(client_id=client_id, user_id=user_id, address=address):
            raise Refused(close_codes.BANNED, client_id)

    def require(self, connection: LiveConnection) -> None:
        """
        Decide about a connection, whose client may be of its consumer's naming.

        Raises:
            Refused: it is banned.
        """
        self.check(connection.client_id, connection.user_id, connection.address)

    def apply_to(self, connection: LiveConnection) -> None:
        """End a connection that is banned."""
        try:
            self.require(connection)
        except Refused as exc:
            connection.end(exc.close_reason)
