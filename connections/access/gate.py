"""Refuse banned clients and addresses with too many failures, from memory."""

import asyncio
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from connections import close_codes
from connections.access.ban_list import Bans, Version
from connections.access.failed_attempts import FailedCredentials
from connections.config.loader import WebSocketConfig
from connections.deadline import deadline
from connections.exceptions import DatabaseUnavailable, Refused, WrongCredential
from connections.hub.connection import LiveConnection
from connections.hub.hub import Hub
from connections.storage.database import Database
from connections.units import Clock

_LOAD_SECONDS = 2


class Gate:
    """
    Decides about the handshakes of one node.

    It reads the bans when their version changes, on each beat and at once after
    an announcement, and in any case every reauthorise_seconds, because
    QuerySet.update() changes no version. While the database is away the last
    bans stand.
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
        self._refreshing = asyncio.Lock()

    async def open(self) -> None:
        """
        Read the bans if they were never read.

        Raises:
            Refused: the database is away.
        """
        if self._version is not None or self._database is None:
            return
        try:
            async with deadline(_LOAD_SECONDS):
                await self.refresh()
        except (DatabaseUnavailable, TimeoutError) as exc:
            raise Refused(close_codes.UNAVAILABLE) from exc

    async def refresh(self) -> bool:
        """
        Read the bans of the database, and end the connections that they name.

        Returns False if a connection failed.

        Raises:
            DatabaseUnavailable: the last bans stand.
        """
        if self._database is None:
            return True
        async with self._refreshing:
            now = self._clock()
            is_stale = now - self._read_at >= self._reread_seconds
            known = None if is_stale else self._version
            self._version = await self._database.read(self.bans.load, known)
            if self._version == known:
                return True
            self._read_at = now
        everyone = (*self._hub, *self._hub.viewers.values())
        name = "The check for bans"
        return await self._hub.for_each_in_slices(name, self.apply_to, everyone)

    def check_address(self, address: str) -> None:
        """
        Check an address, before its credential.

        Raises:
            Refused: the address is banned.
        """
        if self.bans.has_ban_on(address=address):
            raise Refused(close_codes.BANNED)

    def limit_guesses(self, address: str) -> AbstractAsyncContextManager[None]:
        """
        Verify a token, JWT or ticket in this context; count it if it is wrong.

        Raises:
            Refused: the address sent too many wrong credentials, and this one is
                wrong too, or too many others of the address wait.
        """
        return _Guess(self.failures, address)

    def check(self, client_id: str, user_id: object, address: str) -> None:
        """
        Check a client whose credential is verified.

        Raises:
            Refused: the client, user or address is banned.
        """
        if self.bans.has_ban_on(client_id=client_id, user_id=user_id, address=address):
            raise Refused(close_codes.BANNED, client_id)

    def require(self, connection: LiveConnection) -> None:
        """
        Check a connection, whose consumer may have set another client id.

        Raises:
            Refused: the client, user or address is banned.
        """
        self.check(connection.client_id, connection.user_id, connection.source_address)

    def apply_to(self, connection: LiveConnection) -> None:
        """End a connection that is banned."""
        try:
            self.require(connection)
        except Refused as exc:
            connection.end(exc.close_reason)


class _Guess(AbstractAsyncContextManager[None]):
    """A credential that may be guessed; see Gate.limit_guesses()."""

    __slots__ = ("_address", "_failures", "_is_limited")

    def __init__(self, failures: FailedCredentials, address: str) -> None:
        self._failures = failures
        self._address = address
        self._is_limited = failures.is_limited(address)

    async def __aenter__(self) -> None:
        if self._is_limited:
            await self._failures.wait(self._address)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not isinstance(exc, WrongCredential):
            return
        if self._is_limited:
            raise self._failures.refuse(self._address) from exc
        if self._address:
            self._failures.record(self._address)
