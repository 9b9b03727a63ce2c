"""Who a connection belongs to: what a credential said, or what a scope shows."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from connections.net.addresses import group_address

_SCOPE_CHARACTERS = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """
    What was found out about a client at its handshake, or by a refresh.

    `scopes` are the paths and routes it is good for, everywhere if there are
    none; `claims` are those of a JWT, and `jti` the one that names it.
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

    def covers(self, path: str, route: str) -> bool:
        """
        Tell whether the credential is good for a place.

        A scope with a leading slash is a path and all below it; any other is a
        route, as its pattern is written.
        """
        if not self.scopes:
            return True
        return any(
            f"{path}/".startswith(f"{scope.rstrip('/')}/")
            if scope.startswith("/")
            else scope == route
            for scope in self.scopes
        )


def check_scope(scope: str) -> None:
    """
    Refuse what can be neither a path nor a route.

    Raises:
        ValueError: it is empty, too long, or holds spaces or a query.
    """
    if not scope or len(scope) > _SCOPE_CHARACTERS or re.search(r"[\s?#]", scope):
        raise ValueError(
            f"{scope!r} is no scope; a path such as /ws/chat/ (and all below it), "
            "or a route as its pattern is written, such as ws/chat/<int:room>/"
        )


def name_user(user: Any) -> str:
    """Return the client id of a user without a token of its own."""
    return f"user:{user.pk}"


def name_address(address: str) -> str:
    """Return the client id of an address: IPv6 counts by /64."""
    return f"address:{group_address(address)}"


def identify(scope: dict[str, Any]) -> str | None:
    """Return the client id that a scope shows, or None where it shows nothing."""
    credential: Credential | None = scope.get("credential")
    if credential is not None:
        return credential.client_id
    user = scope.get("user")
    if user is not None and getattr(user, "is_authenticated", False):
        return name_user(user)
    client = scope.get("client")
    return name_address(str(client[0])) if client and client[0] else None
