"""Read the credentials that a handshake brings, and remove them from its scope."""

import re

from connections.asgi import Message
from connections.net.origins import parse_origin

_BEARER = "bearer."
_TICKET = re.compile(rb"(?:^|(?<=&))ticket=([^&]*)&?")
_AMBIENT_SCHEMES = ("", "basic", "digest", "negotiate", "ntlm")
"""Schemes for which a browser adds the Authorization header by itself."""


def find_bearer(scope: Message) -> str | None:
    """Return the bearer token of a handshake, from its header or subprotocol."""
    scheme, token = _read_authorization(scope)
    if scheme == "bearer":
        return token
    for subprotocol in scope.get("subprotocols") or []:
        if subprotocol.startswith(_BEARER):
            return str(subprotocol.removeprefix(_BEARER))
    return None


def find_ticket(scope: Message) -> str | None:
    """Return the ticket in the URL of a handshake."""
    found = _TICKET.search(scope.get("query_string", b""))
    return found[1].decode("latin-1") if found else None


def find_origin(scope: Message) -> str:
    """Return the Origin header of a handshake, or an empty text."""
    for name, value in scope["headers"]:
        if name == b"origin":
            return str(value.decode("latin-1"))
    return ""


def has_own_credential(scope: Message) -> bool:
    """Return True if a handshake brings a credential that no browser adds itself."""
    scheme, _ = _read_authorization(scope)
    return (
        scheme not in _AMBIENT_SCHEMES
        or find_bearer(scope) is not None
        or find_ticket(scope) is not None
    )


def remove_credentials(scope: Message) -> Message:
    """Return a scope without the bearer token and the ticket of its handshake."""
    offered = scope.get("subprotocols") or []
    return {
        **scope,
        "subprotocols": [name for name in offered if not name.startswith(_BEARER)],
        "query_string": _TICKET.sub(b"", scope.get("query_string", b"")),
    }


def remove_ambient(scope: Message) -> Message:
    """
    Return a scope whose credentials no page of an opaque origin can borrow.

    Any site can have that origin, so what a browser adds by itself, a cookie or HTTP
    authentication, may not count: the client is that of a token or ticket, or nobody.
    """
    origin = parse_origin(find_origin(scope))
    if origin is None or not origin.is_opaque:
        return scope
    added = {b"cookie"}
    if _read_authorization(scope)[0] in _AMBIENT_SCHEMES:
        added.add(b"authorization")
    headers = [one for one in scope["headers"] if one[0] not in added]
    return {**scope, "headers": headers}


def offer(scope: Message, *, token: str | None, ticket: str | None) -> Message:
    """Return a scope that brings a token or a ticket, and no other credential."""
    secret = (b"authorization", b"cookie")
    query = "" if ticket is None else f"ticket={ticket}"
    bare = {key: scope[key] for key in scope.keys() - {"session", "user", "cookies"}}
    return {
        **bare,
        "headers": [one for one in scope.get("headers", ()) if one[0] not in secret],
        "subprotocols": [] if token is None else [_BEARER + token],
        "query_string": query.encode(errors="replace"),
    }


def _read_authorization(scope: Message) -> tuple[str, str]:
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            return scheme.lower(), token.strip()
    return "", ""
