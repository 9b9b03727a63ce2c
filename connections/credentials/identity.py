"""Identify the client of a connection, by its credential or its scope."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from connections.privacy import name_address
from connections.storage.text import is_storable

_SCOPE_CHARACTERS = 255
_CLIENT_ID_CHARACTERS = 255

API_SCOPES = {
    "api:read": "read lists and items",
    "api:kick": "end connections",
    "api:ban": "ban, and lift bans",
    "api:tokens": "create and revoke access tokens",
    "api:notice": "send notices",
    "api:drain": "drain nodes, and return them to service",
    "api:publish": "publish to the groups of api.publish_groups",
}
"""The scopes of the operators' API; no other scope, nor an empty list, opens it."""

_API = "api:"

_RESERVED = ("user:", "jwt:", "address:", "connection:", "token:")
"""Beginnings of the client ids that the node gives by other credentials."""

_AMBIGUOUS = re.compile(r"(?i)/\.{0,2}/|/\.{1,2}$|[;\\\x00]|%(?:2e|2f|3b|5c|25|00)")
"""
Segments that mean another path (RFC 3986, section 5.2.4), empty segments, separators
that some programs take for a slash or cut at, and any of them encoded twice.
"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Credential:
    """
    A verified credential of a client, from its handshake or a refresh.

    Limits count per `client_id`. `user` becomes scope["user"]; without an
    `expires_at`, an aware datetime, the credential does not expire. `scopes` are
    the paths and routes that it covers; without any it covers all. `state` is for
    the backend's own may_stay(). `token_id`, `session` and `session_digest` belong
    to access tokens and sessions, `claims` and `jti` to JWTs. Two credentials are
    never equal.
    """

    client_id: str
    user: Any = None
    token_id: int | None = None
    session: Any = None
    session_digest: str = ""
    expires_at: datetime | None = None
    scopes: tuple[str, ...] = ()
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False)
    jti: str = ""
    state: Any = field(default=None, repr=False)
    password_hash: str = field(default="", repr=False)
    """
    The hash in the user's sessions, if a new password ends the credential. For one
    with a session it counts once that has expired and is gone.
    """

    backend: str = ""
    """The path of the backend whose may_stay() decides, or an empty text."""

    is_anonymous: bool = False
    """True for the client of an address, which a user of the scope replaces."""

    def covers(self, path: str, route: str) -> bool:
        """
        Return True if the credential covers a path or route.

        A scope with a leading slash is a path and all paths below it; any other
        is the pattern of a route. A path that an application or a proxy may read
        as another one (`/ws/chat/../admin/`) is below none.
        """
        if not self.scopes:
            return True
        is_plain = _AMBIGUOUS.search(path) is None
        return any(
            is_plain and f"{path}/".startswith(f"{scope.rstrip('/')}/")
            if scope.startswith("/")
            else scope == route
            for scope in self.scopes
        )


def check_scope(scope: str) -> None:
    """
    Check that a scope can be a path, a route or a scope of the API.

    Raises:
        ValueError: it is empty, too long, contains spaces or a query, is a path that
            no credential covers, or an unknown scope of the API.
    """
    if scope.startswith(_API):
        if scope not in API_SCOPES:
            known = ", ".join(API_SCOPES)
            raise ValueError(f"{scope!r} is no scope of the API; known: {known}")
        return
    is_ambiguous = scope.startswith("/") and _AMBIGUOUS.search(scope)
    is_unfit = not scope or len(scope) > _SCOPE_CHARACTERS or is_ambiguous
    if is_unfit or re.search(r"[\s?#]", scope):
        raise ValueError(
            f"{scope!r} is no scope; a path such as /ws/chat/ (and all below it), "
            "or the pattern of a route, such as ws/chat/<int:room>/"
        )


def check_client_id(client_id: str, user: Any) -> None:
    """
    Check that an access token of a user, or of none, may have a client id.

    Raises:
        ValueError: it is empty, too long, no text that a database stores, or
            reserved for clients of another kind.
    """
    if not 0 < len(client_id) <= _CLIENT_ID_CHARACTERS:
        raise ValueError(f"takes 1 to {_CLIENT_ID_CHARACTERS} characters")
    if not is_storable(client_id):
        raise ValueError("contains a NUL or a lone surrogate")
    if name_token(client_id, user) != client_id:
        raise ValueError(
            f"{client_id!r} is reserved for another client; an access token takes any "
            f"name that does not begin with {', '.join(_RESERVED)}, or with its user "
            "the name user:<primary key>"
        )


def name_token(client_id: str, user: Any) -> str:
    """
    Return the client id of the connections of an access token.

    A name of another kind of client belongs to that client: only the token of a
    user shares the user's client id. Other tokens with such a name, which older
    versions created, are clients of their own.
    """
    if not client_id.startswith(_RESERVED):
        return client_id
    if user is not None and client_id == name_user(user):
        return client_id
    return f"token:{client_id}"


def name_user(user: Any) -> str:
    """Return the client id of a user without an own client id."""
    return f"user:{user.pk}"


def find_scope_user(scope: dict[str, Any]) -> Any:
    """Return the user that a middleware found, or None for an anonymous one."""
    user = scope.get("user")
    return user if getattr(user, "is_authenticated", False) else None


def identify(scope: dict[str, Any]) -> str | None:
    """
    Return the client id for a scope, or None.

    The client is that of the credential, else the user, else the address. A user
    comes before the address of an anonymous client: behind one address there may
    be many users.
    """
    credential: Credential | None = scope.get("credential")
    if credential is not None and not credential.is_anonymous:
        return credential.client_id
    user = find_scope_user(scope)
    if user is not None:
        return name_user(user)
    if credential is not None:
        return credential.client_id
    client = scope.get("client")
    return name_address(str(client[0])) if client and client[0] else None
