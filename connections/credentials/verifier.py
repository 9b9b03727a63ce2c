"""Handshake credentials, checked off the loop and remembered for an outage."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from connections import close_codes
from connections.credentials.identity import Credential
from connections.credentials.lookups import Lookups
from connections.credentials.sessions import verify_session
from connections.credentials.tokens import note_use, verify_access_tokens
from connections.database import Database
from connections.exceptions import DatabaseUnavailable, Refused
from connections.models import CloseRequest
from connections.querysets import digest_token
from connections.units import Clock

_REMEMBERED_SECONDS = 60
_REMEMBERED_CREDENTIALS = 10_000
_TIMEOUT_SECONDS = 2


class Verifier:
    """
    Checks credentials against the database.

    While the database is away, one that was verified in the last minute is
    admitted from memory; any other is refused as unavailable.
    """

    def __init__(self, database: Database, clock: Clock = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._remembered: dict[str, tuple[float, Credential]] = {}
        self._tokens = Lookups(self._find_tokens, _TIMEOUT_SECONDS)
        self._used_tokens: set[int] = set()
        self._forget_count = 0

    async def verify_token(self, token: str) -> Credential:
        """
        Return the credential of an access token.

        Raises:
            Refused: the token is no good, or nobody can tell now.
        """
        credential = await self._verify("token", self._find_token, token)
        if credential.token_id is not None:
            self._used_tokens.add(credential.token_id)
        return credential

    async def verify_session(self, session_key: str) -> Credential:
        """
        Return the credential of a Django session.

        Raises:
            Refused: nobody is logged in, or nobody can tell now.
        """
        return await self._verify("session", self._find_session, session_key)

    async def flush(self) -> None:
        """
        Write down which access tokens were used since the last time.

        Raises:
            DatabaseUnavailable: it is written the next time.
        """
        if not self._used_tokens:
            return
        used, self._used_tokens = self._used_tokens, set()
        try:
            await self._database.write(note_use, used)
        except BaseException:
            self._used_tokens |= used
            raise

    def forget(self, target: str, value: str) -> None:
        """
        Remember none of the credentials that a close request names.

        What is being looked up meanwhile is not remembered either: it may have
        been read before.
        """
        self._forget_count += 1
        for key, (_, credential) in list(self._remembered.items()):
            if _is_meant(credential, target, value):
                del self._remembered[key]

    async def _find_token(self, token: str) -> Credential:
        found = await self._tokens.find(token)
        if isinstance(found, Refused):
            raise found
        return found

    async def _find_tokens(self, tokens: list[str]) -> list[Credential | Refused]:
        return await self._database.read(verify_access_tokens, tokens)

    async def _find_session(self, session_key: str) -> Credential:
        return await self._database.read(verify_session, session_key)

    async def _verify(
        self, kind: str, find: Callable[[str], Awaitable[Credential]], secret: str
    ) -> Credential:
        # The secret itself is not kept.
        key = f"{kind}:{digest_token(secret)}"
        forget_count = self._forget_count
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                credential = await find(secret)
        except (DatabaseUnavailable, TimeoutError) as exc:
            verified_at, known = self._remembered.get(key, (None, None))
            if known is None or verified_at is None:
                raise Refused(close_codes.UNAVAILABLE) from exc
            if self._clock() - verified_at > _REMEMBERED_SECONDS:
                raise Refused(close_codes.UNAVAILABLE) from exc
            return known
        except Refused:
            self._remembered.pop(key, None)
            raise
        self._remembered.pop(key, None)
        if forget_count != self._forget_count:
            return credential
        self._remembered[key] = (self._clock(), credential)
        if len(self._remembered) > _REMEMBERED_CREDENTIALS:
            del self._remembered[next(iter(self._remembered))]
        return credential


def _is_meant(credential: Credential, target: str, value: str) -> bool:
    targets = CloseRequest.Target
    if target == targets.USER:
        return credential.user is not None and str(credential.user.pk) == value
    named = {
        targets.CLIENT: credential.client_id,
        targets.TOKEN: str(credential.token_id),
        targets.SESSION_KEY: credential.session_digest,
        targets.ALL: value,
    }
    return named.get(targets(target)) == value
