"""The backend of the user that the project's own ASGI middleware found."""

from dataclasses import replace

from connections.asgi import Message
from connections.credentials.identity import Credential
from connections.credentials.sessions import find_expiry, find_user_credential
from connections.units import as_utc


class ScopeUser:
    """
    scope["user"], as AuthMiddlewareStack of Channels or another middleware sets it.

    protect(middleware=...) takes the middleware. A connection ends with the session
    of its user, or, if the scope has none, with a new password.
    """

    def is_explicit(self, scope: Message) -> bool:
        """Return False, because the middleware may have read a cookie."""
        return False

    async def authenticate(self, scope: Message) -> Credential | None:
        """Return the credential of the user; None for an anonymous or missing one."""
        credential = find_user_credential(scope)
        database = scope["node"].database
        if credential is None or credential.session is None or database is None:
            return credential
        expires_at = await database.read(find_expiry, credential.session)
        return replace(
            credential, expires_at=as_utc(expires_at) if expires_at else None
        )
