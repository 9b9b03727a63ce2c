"""
Remove credentials from logs and records.

The text of a handler's exception may hold anything, even the whole scope. The
secrets in a scope are known exactly, so their values are replaced anywhere in
a text.
"""

import traceback
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

from connections.net.cookies import read_cookies
from connections.privacy import find_hidden

REDACTED = "[redacted]"

SECRET_KEYS = ("client", "headers", "query_string")
"""The keys of a scope that hold secrets, or what `privacy` keeps out of records."""

_SECRET_HEADERS = (b"authorization", b"proxy-authorization", b"cookie")
_BEARER = "bearer."
_LEAST_CHARACTERS = 8
"""Shorter values are no secrets, and occur in texts by chance."""

_LEAST_ADDRESS = 7
"""Shorter addresses, such as ::1, occur in texts by chance."""


class Redacted(Exception):
    """Replaces an exception whose text held secrets."""


def conceal(exc: BaseException, scope: Mapping[str, Any]) -> BaseException:
    """Return the exception, or a Redacted one if its text holds secrets."""
    text = format_traceback(exc)
    redacted = redact(text, scope)
    return exc if redacted == text else Redacted(f"in its place:\n{redacted}")


def format_traceback(exc: BaseException) -> str:
    """Return the traceback of an exception, with its causes."""
    return "".join(traceback.format_exception(exc))


def redact(text: str, scope: Mapping[str, Any]) -> str:
    """Return a text without the secrets of a handshake and what is not recorded."""
    # The longest first: one secret may contain another.
    for secret in sorted(set(_find_secrets(scope)), key=len, reverse=True):
        if len(secret) >= _LEAST_CHARACTERS:
            text = text.replace(secret, REDACTED)
    for hidden, reduced in find_hidden(scope):
        if len(hidden) >= _LEAST_ADDRESS:
            text = text.replace(hidden, reduced)
    return text


def _find_secrets(scope: Mapping[str, Any]) -> Iterator[str]:
    """Yield the secrets of a scope in every form that a text may contain."""
    for secret in _read_secrets(scope):
        yield secret
        # The forms in repr() of str and of bytes.
        yield repr(secret)[1:-1]
        yield repr(secret.encode("utf-8", "surrogateescape"))[2:-1]


def _read_secrets(scope: Mapping[str, Any]) -> Iterator[str]:
    for name, value in scope.get("headers") or ():
        text = value.decode("latin-1")
        if name in _SECRET_HEADERS:
            yield text
        if name == b"cookie":
            for _, value in read_cookies(text):
                yield value
        elif name in _SECRET_HEADERS:
            yield text.partition(" ")[2].strip()
        elif name == b"sec-websocket-protocol":
            for offered in text.split(","):
                if offered.strip().startswith(_BEARER):
                    yield offered.strip().removeprefix(_BEARER)
    query = (scope.get("query_string") or b"").decode("latin-1")
    yield query
    yield unquote_plus(query)
    for part in query.split("&"):
        yield part.partition("=")[2]
    for _, value in parse_qsl(query):
        yield value
