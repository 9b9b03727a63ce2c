"""
Read, keep and rotate the keys of an identity provider (RFC 7517).

This module is imported only if JWTs are configured.
"""

import asyncio
import contextlib
import http.client
import json
import logging
import math
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm

from connections import close_codes
from connections.background import BackgroundTasks
from connections.exceptions import Refused, WrongCredential
from connections.units import Clock

logger = logging.getLogger(__name__)

KINDS = {
    "RS256": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "EdDSA": ("OKP", "Ed25519"),
    "HS256": ("oct", None),
}
"""Each algorithm with the kind of key, and its curve, that it takes."""

LEAST_SECRET_BYTES = 32
"""RFC 7518, section 3.2: a key as long as the hash."""

_UNUSABLE = (
    jwt.PyJWTError,
    UnsupportedAlgorithm,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    OverflowError,
)
"""What PyJWT and cryptography raise for keys that they cannot use."""

_LEAST_RSA_BITS = 2048
_MOST_DOCUMENT_BYTES = 1_000_000
_FETCH_SECONDS = 5
_RELOAD_SECONDS = 15
_WAIT_SECONDS = 3
"""A handshake waits so long for keys; handshake.timeout_seconds is 5."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key; its algorithm is the only one that it verifies."""

    kid: str
    algorithm: str
    verifying_key: Any = field(repr=False)


def make_secret_key(secret: str) -> Key:
    """Return the key for a shared secret (HS256)."""
    return Key(kid="", algorithm="HS256", verifying_key=secret.encode())


def read_keys(
    document: bytes, algorithms: Collection[str], *, may_hold_secrets: bool
) -> tuple[Key, ...]:
    """
    Return the usable keys of a JWKS.

    Raises:
        ValueError: the document is no JWKS, or has no usable key.
    """
    try:
        listed = json.loads(document)["keys"]
        if not isinstance(listed, list):
            raise TypeError("keys")
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise ValueError("no JSON object with a list of `keys`") from exc
    found, problems = [], []
    for position, jwk in enumerate(listed):
        try:
            found.append(_read_key(jwk, algorithms, may_hold_secrets))
        except _UNUSABLE as exc:
            problems.append(f"key {position}: {exc}")
    if not found:
        raise ValueError("; ".join(problems) or "no key in it")
    return tuple(found)


def _read_key(jwk: Any, algorithms: Collection[str], may_hold_secrets: bool) -> Key:
    if not isinstance(jwk, dict):
        raise ValueError("no JSON object")
    if "d" in jwk:
        raise ValueError("a private key, which belongs to the provider alone")
    kind = (jwk.get("kty"), jwk.get("crv"))
    suiting = [name for name, known in KINDS.items() if known == kind]
    algorithm: str = jwk.get("alg") or next(iter(suiting), "")
    if algorithm not in algorithms or algorithm not in suiting:
        raise ValueError(f"not a key for one of {', '.join(algorithms)}")
    if jwk.get("use", "sig") != "sig" or "verify" not in jwk.get("key_ops", ["verify"]):
        raise ValueError("not for signatures")
    if kind[0] == "oct" and not may_hold_secrets:
        raise ValueError("a secret that was read from a URL is none")
    verifying_key = jwt.PyJWK(jwk, algorithm).key
    if kind[0] == "RSA" and verifying_key.key_size < _LEAST_RSA_BITS:
        raise ValueError(f"shorter than {_LEAST_RSA_BITS} bits")
    if kind[0] == "oct" and len(verifying_key) < LEAST_SECRET_BYTES:
        raise ValueError(f"shorter than {LEAST_SECRET_BYTES} bytes")
    kid = jwk.get("kid", "")
    return Key(kid=str(kid), algorithm=algorithm, verifying_key=verifying_key)


def fetch(url: str, timeout_seconds: float = _FETCH_SECONDS) -> bytes:
    """
    Return the body of a URL: at most a megabyte, in time, without a redirect.

    Raises:
        OSError: the server does not answer so, or speaks no HTTP.
    """
    deadline = time.monotonic() + timeout_seconds
    connections = _Connections()
    opener = urllib.request.build_opener(_NoRedirect, connections)
    request = urllib.request.Request(url, headers={"Accept": "application/json"})
    body = b""
    # The timeout of a socket counts anew with each byte of the headers.
    timer = threading.Timer(timeout_seconds, connections.abort)
    timer.daemon = True
    timer.start()
    try:
        with opener.open(request, timeout=timeout_seconds) as response:
            while chunk := response.read1(65536):
                body += chunk
                if len(body) > _MOST_DOCUMENT_BYTES:
                    raise OSError(f"more than {_MOST_DOCUMENT_BYTES} bytes")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not complete within {timeout_seconds:g} s")
    except http.client.HTTPException as exc:
        raise OSError(f"no answer in HTTP: {type(exc).__name__}") from exc
    finally:
        timer.cancel()
    return body


class _Connections(urllib.request.HTTPSHandler, urllib.request.HTTPHandler):
    """Opens HTTP connections, and can abort them from another thread."""

    def __init__(self) -> None:
        super().__init__()
        self._opened: list[http.client.HTTPConnection] = []

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(self._open, http.client.HTTPConnection), req)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(self._open, http.client.HTTPSConnection), req)

    def abort(self) -> None:
        """End every connection; a thread that waits for one gets an OSError."""
        for opened in self._opened:
            with contextlib.suppress(OSError, AttributeError):
                opened.sock.shutdown(socket.SHUT_RDWR)

    def _open(
        self, kind: type[http.client.HTTPConnection], *args: Any, **kwargs: Any
    ) -> http.client.HTTPConnection:
        opened = kind(*args, **kwargs)
        self._opened.append(opened)
        return opened


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: its target would choose the keys."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class KeyRing:
    """
    The keys in use: those of the last successful read.

    A thread reads them again after refresh_seconds, and when a token names an
    unknown key, though at most every refetch_seconds. Waiting handshakes share
    one read.
    """

    def __init__(
        self,
        load: Callable[[], tuple[Key, ...]],
        *,
        refresh_seconds: float,
        refetch_seconds: float,
        clock: Clock,
    ) -> None:
        self._load = load
        self._refresh_seconds = refresh_seconds
        self._refetch_seconds = refetch_seconds
        self._clock = clock
        self._keys: tuple[Key, ...] = ()
        self._tried_at = -math.inf
        self._has_failed = False
        self._tasks = BackgroundTasks()
        self._loading: asyncio.Task[None] | None = None

    def refresh(self) -> None:
        """Start to read the keys again if it is time; called on every beat."""
        seconds = self._refetch_seconds if self._has_failed else self._refresh_seconds
        if self._clock() - self._tried_at >= seconds:
            self._begin()

    async def find(self, kid: str | None) -> Key:
        """
        Return the key with the kid of a token, or the only key for no kid.

        Raises:
            Refused: there is no such key, or the keys cannot be read now.
        """
        key = self._select(kid)
        if key is None:
            await self._refetch()
            key = self._select(kid)
        if key is not None:
            return key
        if self._keys and not self._has_failed:
            raise WrongCredential(close_codes.UNAUTHENTICATED)
        raise Refused(close_codes.UNAVAILABLE)

    def _select(self, kid: str | None) -> Key | None:
        if kid:
            for key in self._keys:
                if key.kid == kid:
                    return key
        if len(self._keys) == 1 and not (kid and self._keys[0].kid):
            return self._keys[0]
        return None

    async def _refetch(self) -> None:
        if self._clock() - self._tried_at >= self._refetch_seconds:
            self._begin()
        if self._loading is not None:
            await asyncio.wait((self._loading,), timeout=_WAIT_SECONDS)

    def _begin(self) -> None:
        if self._loading is None:
            self._tried_at = self._clock()
            self._loading = self._tasks.start(self._reload(), "read the keys for JWTs")

    async def _reload(self) -> None:
        try:
            # Stop waiting for a provider that sends single bytes; its thread goes
            # on alone.
            async with asyncio.timeout(_RELOAD_SECONDS):
                self._keys = await asyncio.to_thread(self._load)
        except (OSError, ValueError) as exc:
            if not self._has_failed:
                logger.error(
                    "The keys for JWTs could not be read; the last ones are kept: %s",
                    str(exc) or "no answer in time",
                    extra={"event": "jwt_keys_failed"},
                )
            self._has_failed = True
        except BaseException:
            # BackgroundTasks reports it; the keys are tried again all the same.
            self._has_failed = True
            raise
        else:
            if self._has_failed:
                logger.warning(
                    "The keys for JWTs can be read again",
                    extra={"event": "jwt_keys_recovered"},
                )
            self._has_failed = False
        finally:
            self._loading = None
