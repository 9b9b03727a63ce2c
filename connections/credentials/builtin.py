"""The backends of Orchestra's own credentials: tokens, JWTs, tickets, sessions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from django.conf import settings

from connections import close_codes
from connections.asgi import Message
from connections.credentials.channels_scope import parse_cookies
from connections.credentials.handshake import find_bearer, find_origin, find_ticket
from connections.credentials.identity import Credential
from connections.exceptions import Refused

if TYPE_CHECKING:
    from connections.credentials.verifier import Verifier


class Builtin(ABC):
    """
    A backend whose credentials name what the node rechecks by itself.

    The verifier of the node bounds their look-ups, and remembers credentials for
    an outage of the database.
    """

    @abstractmethod
    def is_explicit(self, scope: Message) -> bool:
        """Return True if a handshake brings a credential that no browser adds."""

    @abstractmethod
    async def authenticate(self, scope: Message) -> Credential | None:
        """Return the credential of a handshake, or None."""


class AccessTokens(Builtin):
    """Orchestra's access tokens, as a bearer token."""

    def is_explicit(self, scope: Message) -> bool:
        return find_bearer(scope) is not None

    async def authenticate(self, scope: Message) -> Credential | None:
        token = find_bearer(scope)
        if token is None or _get_verifier(scope).is_jwt(token):
            return None
        return await _get_verifier(scope).verify_access_token(token)


class JsonWebTokens(Builtin):
    """JWTs of an identity provider (section `jwt`), as a bearer token."""

    def is_explicit(self, scope: Message) -> bool:
        return find_bearer(scope) is not None

    async def authenticate(self, scope: Message) -> Credential | None:
        token = find_bearer(scope)
        if token is None or not _get_verifier(scope).is_jwt(token):
            return None
        return await _get_verifier(scope).verify_jwt(token)


class Tickets(Builtin):
    """Tickets of POST /api/tickets/, in the URL; a bearer token comes before."""

    def is_explicit(self, scope: Message) -> bool:
        return find_ticket(scope) is not None

    async def authenticate(self, scope: Message) -> Credential | None:
        ticket = find_ticket(scope)
        if ticket is None or find_bearer(scope) is not None:
            return None
        return await _get_verifier(scope).verify_ticket(ticket, find_origin(scope))


class Sessions(Builtin):
    """Sessions of Django, by their cookie; a token or ticket comes before."""

    def is_explicit(self, scope: Message) -> bool:
        return False

    async def authenticate(self, scope: Message) -> Credential | None:
        cookies = parse_cookies(scope["headers"])
        key = cookies.get(settings.SESSION_COOKIE_NAME)
        if not key:
            return None
        try:
            return await _get_verifier(scope).verify_session(key)
        except Refused as exc:
            if exc.close_reason is close_codes.UNAUTHENTICATED:
                return None  # A browser sends the cookie of an ended session too.
            raise


def _get_verifier(scope: Message) -> Verifier:
    verifier: Verifier = scope["node"].verifier
    return verifier
