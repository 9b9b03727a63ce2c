"""Verify credentials off the event loop, and remember them for an outage."""

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import ParamSpec, TypeVar

from connections import close_codes
from connections.config.loader import WebSocketConfig
from connections.credentials.batching import BatchLoader
from connections.credentials.identity import Credential
from connections.credentials.jwt_config import make_jwt_verifier
from connections.credentials.sessions import verify_session
from connections.credentials.tickets import issue_ticket, redeem_ticket
from connections.credentials.tokens import record_use, verify_access_tokens
from connections.deadline import deadline
from connections.exceptions import DatabaseUnavailable, Refused, WrongCredential
from connections.models import CloseRequest
from connections.models.credentials import digest_token
from connections.storage.database import Database
from connections.units import Clock

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_REMEMBERED_SECONDS = 60
_REMEMBERED_CREDENTIALS = 10_000
_TIMEOUT_SECONDS = 2


class Verifier:
    """
    Verifies credentials against the database.

    While the database is away, a credential of the last minute is admitted from
    memory; any other is refused as unavailable.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock = time.monotonic,
        config: WebSocketConfig | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._remembered: dict[str, tuple[float, Credential]] = {}
        self._tokens = BatchLoader(self._find_tokens, _TIMEOUT_SECONDS)
        self._used_tokens: set[int] = set()
        self._under_way: set[_LookUp] = set()
        self._config = config or WebSocketConfig()
        self._jwt = make_jwt_verifier(self._config.jwt, clock)

    async def verify_token(self, token: str) -> Credential:
        """
        Return the credential of an access token or a JWT.

        Raises:
            Refused: the token is not valid, or the database is away.
        """
        if self.is_jwt(token):
            return await self.verify_jwt(token)
        return await self.verify_access_token(token)

    def is_jwt(self, token: str) -> bool:
        """Return True if a token has the form of a JWT, and JWTs are configured."""
        return self._jwt is not None and token.count(".") == 2

    async def verify_jwt(self, token: str) -> Credential:
        """
        Return the credential of a JWT.

        Raises:
            Refused: the JWT is not valid, or the database is away.
        """
        if self._jwt is None:
            raise WrongCredential(close_codes.UNAUTHENTICATED)
        claims = await self._jwt.verify(token)
        if not self._jwt.needs_database:
            return self._jwt.make_credential(claims)
        make = partial(self._jwt.make_credential, claims)
        return await self._verify("jwt", lambda _: self._database.read(make), token)

    async def verify_access_token(self, token: str) -> Credential:
        """
        Return the credential of an access token.

        Raises:
            Refused: the token is not valid, or the database is away.
        """
        credential = await self._verify("token", self._find_token, token)
        if credential.token_id is not None:
            self._used_tokens.add(credential.token_id)
        return credential

    async def verify_session(self, session_key: str) -> Credential:
        """
        Return the credential of a Django session.

        Raises:
            Refused: the session has no user, or the database is away.
        """
        return await self._verify("session", self._find_session, session_key)

    async def verify_ticket(self, ticket: str, origin: str) -> Credential:
        """
        Consume a ticket, and return its credential.

        Raises:
            Refused: it is not valid for this origin, or the database is away.
        """
        return await self._write(
            redeem_ticket, ticket, origin, self._config.tickets, self._config.jwt
        )

    async def issue_ticket(self, credential: Credential, origin: str) -> str:
        """
        Return a ticket for a credential and the origin of a page.

        Raises:
            Refused: the client has too many tickets, or the database is away.
        """
        config = self._config.tickets
        ticket = await self._write(issue_ticket, credential, origin, config)
        if ticket is None:
            raise Refused(close_codes.RATE_LIMITED)
        return ticket

    async def beat(self) -> None:
        """
        Record the use of access tokens, and refresh the keys for JWTs.

        Raises:
            DatabaseUnavailable: the next call records the use.
        """
        if self._jwt is not None:
            self._jwt.keys.refresh()
        if not self._used_tokens:
            return
        used, self._used_tokens = self._used_tokens, set()
        try:
            await self._database.write(record_use, used)
        except BaseException:
            self._used_tokens |= used
            raise

    def forget(self, target: str, value: str) -> None:
        """
        Forget the credentials that a close request selects.

        The result of a look-up under way is not remembered either, because it
        may be older than the request.
        """
        for look_up in self._under_way:
            look_up.forgotten.append((target, value))
        for key, (_, credential) in list(self._remembered.items()):
            if _is_selected(credential, target, value):
                del self._remembered[key]

    async def _find_token(self, token: str) -> Credential:
        found = await self._tokens.find(token)
        if isinstance(found, Exception):
            raise found
        return found

    async def _find_tokens(self, tokens: list[str]) -> list[Credential | Exception]:
        return await self._database.read(verify_access_tokens, tokens)

    async def _find_session(self, session_key: str) -> Credential:
        return await self._database.read(verify_session, session_key)

    async def _write(
        self,
        work: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """Run work that writes; refuse as unavailable if the database is away."""
        try:
            async with deadline(_TIMEOUT_SECONDS):
                return await self._database.write(work, *args, **kwargs)
        except (DatabaseUnavailable, TimeoutError) as exc:
            raise Refused(close_codes.UNAVAILABLE) from exc

    async def _verify(
        self, kind: str, find: Callable[[str], Awaitable[Credential]], secret: str
    ) -> Credential:
        # The verifier keeps no secret.
        key = f"{kind}:{digest_token(secret)}"
        look_up = _LookUp()
        self._under_way.add(look_up)
        try:
            async with deadline(_TIMEOUT_SECONDS):
                credential = await find(secret)
        except (DatabaseUnavailable, TimeoutError) as exc:
            return self._recall(key, exc)
        except Refused:
            self._remembered.pop(key, None)
            raise
        finally:
            self._under_way.discard(look_up)
        self._remembered.pop(key, None)
        if any(_is_selected(credential, *selector) for selector in look_up.forgotten):
            return credential
        self._remembered[key] = (self._clock(), credential)
        if len(self._remembered) > _REMEMBERED_CREDENTIALS:
            del self._remembered[next(iter(self._remembered))]
        return credential

    def _recall(self, key: str, cause: Exception) -> Credential:
        """Return a credential of the last minute, or refuse as unavailable."""
        verified_at, known = self._remembered.get(key, (None, None))
        if known is None or verified_at is None:
            raise Refused(close_codes.UNAVAILABLE) from cause
        if self._clock() - verified_at > _REMEMBERED_SECONDS:
            raise Refused(close_codes.UNAVAILABLE) from cause
        return known


class _LookUp:
    """A look-up under way, with the close requests that arrive meanwhile."""

    def __init__(self) -> None:
        self.forgotten: list[tuple[str, str]] = []


def _is_selected(credential: Credential, target: str, value: str) -> bool:
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
