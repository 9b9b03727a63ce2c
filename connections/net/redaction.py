"""
What a client sends to prove who it is, kept out of logs and records.

A handler's exception may say anything, such as the whole scope. What is secret
in a scope is known exactly: so its values are taken out of a text, wherever
they stand and whatever is around them.
"""

import traceback
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

from connections.net.cookies import read_cookies

REDACTED = "[redacted]"

_SECRET_HEADERS = (b"authorization", b"proxy-authorization", b"cookie")
_BEARER = "bearer."
_LEAST_CHARACTERS = 8
"""What is shorter guards nothing, and may stand in any text by chance."""


class Redacted(Exception):
    """Stands for an exception whose text held secrets; its own text is clean."""


def conceal(exc: BaseException, scope: Mapping[str, Any]) -> BaseException:
    """Return what can be logged: the exception, or one in its place."""
    text = format_traceback(exc)
    redacted = redact(text, scope)
    return exc if redacted == text else Redacted(f"in its place:\n{redacted}")


def format_traceback(exc: BaseException) -> str:
    """Return the traceback of an exception, with all that led to it."""
    return "".join(traceback.format_exception(exc))


def redact(text: str, scope: Mapping[str, Any]) -> str:
    """Return a text without the credentials, cookies and query of a handshake."""
    # The longest first: a cookie's value may hold that of another.
    for secret in sorted(set(_find_secrets(scope)), key=len, reverse=True):
        if len(secret) >= _LEAST_CHARACTERS:
            text = text.replace(secret, REDACTED)
    return text


def _find_secrets(scope: Mapping[str, Any]) -> Iterator[str]:
    """Yield the secrets of a scope as they may stand in a text."""
    for secret in _read_secrets(scope):
        yield secret
        # As repr() shows it, of text and of bytes.
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
