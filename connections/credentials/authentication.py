"""Authenticate handshakes and recheck credentials by a list of backends."""

import asyncio
import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from django.db import InterfaceError, OperationalError

from connections import close_codes
from connections.asgi import Message
from connections.background import end_as_failure
from connections.close_codes import CloseReason
from connections.config.loader import WebSocketConfig
from connections.credentials.backends import (
    CredentialBackend,
    check_credential,
    check_staying,
    load_backend,
)
from connections.credentials.builtin import Builtin
from connections.credentials.handshake import has_own_credential
from connections.credentials.identity import Credential
from connections.credentials.sessions import find_password_hash
from connections.exceptions import ConnectionsError, DatabaseUnavailable, Refused
from connections.redaction import conceal
from connections.units import Clock, utc_now

logger = logging.getLogger(__name__)

_MOST_SECONDS = 5
_LOG_SECONDS = 10
_PAUSE_SECONDS = 10
"""How long a backend that took too long in may_stay() is not asked again."""

_BATCH = 500
_OUTAGES = (DatabaseUnavailable, OperationalError, InterfaceError, TimeoutError)

LimitGuesses = Callable[[str], AbstractAsyncContextManager[None]]


class BackendFailed(ConnectionsError):
    """A backend raised, took too long, or returned something that is not allowed."""

    def __init__(self, path: str, name: str) -> None:
        super().__init__(path, name)
        self.path = path
        self.name = name

    def __str__(self) -> str:
        return f"{self.path}.{self.name}() failed"


class Authenticator:
    """
    Asks the credential backends of one node.

    A backend that fails refuses the handshake that it was asked about, and leaves
    open connections as they are. It is logged at most every ten seconds, and each
    failure is counted. Nothing bounds a backend that blocks the event loop.
    """

    def __init__(
        self,
        config: WebSocketConfig,
        *,
        limit_guesses: LimitGuesses,
        count_failure: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self._paths = config.credential_backends
        self._timeout_seconds = min(_MOST_SECONDS, config.handshake.timeout_seconds / 2)
        self._limit_guesses = limit_guesses
        self._count_failure = count_failure
        self._clock = clock
        self._loaded: dict[str, CredentialBackend] = {}
        self._logged_at: dict[str, float] = {}
        self._paused_until: dict[str, float] = {}

    def is_explicit(self, scope: Message) -> bool:
        """Return True if a handshake brings a credential that no browser adds."""
        if has_own_credential(scope):
            return True
        return any(self._is_explicit(one, scope, False) for one in self._paths)

    async def authenticate(
        self, scope: Message, address: str, paths: Sequence[str] = ()
    ) -> Credential | None:
        """
        Return the credential of the first backend that finds one.

        A credential that is wrong or refused ends the search. `paths` replace those
        of the configuration.

        Raises:
            Refused: the credential is refused, or a backend failed.
        """
        paths = paths or self._paths
        is_guess = any(self._is_explicit(one, scope, True) for one in paths)
        async with self._limit_guesses(address) if is_guess else nullcontext():
            for path in paths:
                credential = await self._ask(path, scope)
                if credential is not None:
                    return credential
        return None

    async def find_close_reasons(
        self, credentials: Sequence[Credential]
    ) -> dict[Credential, CloseReason | Exception | None]:
        """
        Ask the backends of credentials, hundreds at once, which of them may stay.

        A credential whose backend failed gets the exception, else a close reason
        or None.
        """
        batches: dict[str, list[Credential]] = {}
        for one in credentials:
            batches.setdefault(one.backend, []).append(one)
        answers = await asyncio.gather(
            *(
                self._ask_staying(path, batch[start : start + _BATCH])
                for path, batch in batches.items()
                for start in range(0, len(batch), _BATCH)
            )
        )
        return {key: value for answer in answers for key, value in answer.items()}

    def _is_explicit(self, path: str, scope: Message, default: bool) -> bool:
        method = getattr(self._load(path), "is_explicit", None)
        if method is None:
            return default
        try:
            return bool(method(scope))
        except Exception as exc:
            self._report(path, "is_explicit", exc, scope)
            return default

    def _load(self, path: str) -> CredentialBackend:
        backend = self._loaded.get(path)
        if backend is None:
            backend = self._loaded[path] = load_backend(path)
        return backend

    async def _ask(self, path: str, scope: Message) -> Credential | None:
        backend = self._load(path)
        try:
            with end_as_failure():
                if isinstance(backend, Builtin):
                    # Ours bound themselves, and remember credentials for an outage.
                    return await backend.authenticate(scope)
                async with asyncio.timeout(self._timeout_seconds):
                    found = await backend.authenticate(scope)
            if found is None:
                return None
            return _complete(check_credential(found), path, backend)
        except Exception as exc:
            if isinstance(exc, Refused) and isinstance(exc.close_reason, CloseReason):
                raise
            self._report(path, "authenticate", exc, scope)
            is_outage = isinstance(exc, _OUTAGES)
            unable = (
                close_codes.UNAVAILABLE if is_outage else close_codes.INTERNAL_ERROR
            )
            raise Refused(unable) from exc

    async def _ask_staying(
        self, path: str, credentials: list[Credential]
    ) -> dict[Credential, CloseReason | Exception | None]:
        if self._clock() < self._paused_until.get(path, -math.inf):
            return dict.fromkeys(credentials, BackendFailed(path, "may_stay"))
        backend: Any = self._load(path)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                with end_as_failure():
                    found = await backend.may_stay(list(credentials))
            staying = check_staying(found, credentials)
        except Exception as exc:
            if isinstance(exc, TimeoutError):
                self._paused_until[path] = self._clock() + _PAUSE_SECONDS
            self._report(path, "may_stay", exc, {})
            failure = BackendFailed(path, "may_stay")
            failure.__cause__ = exc
            return dict.fromkeys(credentials, failure)
        return {
            one: None if one in staying else close_codes.REVOKED for one in credentials
        }

    def _report(self, path: str, name: str, exc: Exception, scope: Message) -> None:
        """Count a failure of a backend; log it unless one was logged just before."""
        self._count_failure(f"{path}.{name}"[:120])
        now = self._clock()
        if now - self._logged_at.get(path, now - _LOG_SECONDS) < _LOG_SECONDS:
            return
        self._logged_at[path] = now
        shown = conceal(exc, scope)
        logger.error(
            "The credential backend %s failed in %s(): %s",
            path,
            name,
            type(exc).__name__,
            exc_info=shown,
            extra={"event": "credential_backend_failed", "backend": path},
        )


def _complete(
    credential: Credential, path: str, backend: CredentialBackend
) -> Credential:
    """
    Add what a recheck needs to the credential of a backend.

    Raises:
        Refused: the user is not active, or the credential has expired.
    """
    user = credential.user
    if user is not None and not getattr(user, "is_active", True):
        raise Refused(close_codes.DEACTIVATED, credential.client_id)
    if credential.expires_at is not None and credential.expires_at <= utc_now():
        raise Refused(close_codes.TOKEN_EXPIRED, credential.client_id)
    if hasattr(backend, "may_stay"):
        return dataclasses.replace(credential, backend=path)
    if credential.session is not None:
        return credential
    return dataclasses.replace(credential, password_hash=find_password_hash(user))
