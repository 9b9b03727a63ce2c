"""Access tokens: random, stored as a hash, checked at every handshake."""

import secrets
from datetime import timedelta
from typing import Any

from django.utils import timezone
from django.utils.crypto import constant_time_compare

from connections import close_codes
from connections.credentials.identity import Credential
from connections.exceptions import Refused
from connections.models import AccessToken
from connections.querysets import digest_token

_TOKEN_BYTES = 32
_HINT_CHARACTERS = 6


def create_access_token(
    client_id: str, *, user: Any = None, expires_in_seconds: float | None = None
) -> tuple[str, AccessToken]:
    """
    Make a token; return it with its row. It cannot be read again.

    The token is base64url without padding, so it can be a WebSocket
    subprotocol (RFC 6455, section 4.1: a token of RFC 2616).
    """
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    expires_at = None
    if expires_in_seconds is not None:
        expires_at = timezone.now() + timedelta(seconds=expires_in_seconds)
    row = AccessToken.objects.create(
        digest=digest_token(token),
        hint=token[:_HINT_CHARACTERS],
        client_id=client_id,
        user=user,
        expires_at=expires_at,
    )
    return token, row


def verify_access_token(token: str) -> Credential:
    """
    Return the credential of a token; reads the database.

    Raises:
        Refused: unknown, expired, revoked, or of a user who is not active.
    """
    digest = digest_token(token)
    row = AccessToken.objects.find(token)
    if row is None or not constant_time_compare(row.digest, digest):
        raise Refused(close_codes.UNAUTHENTICATED)
    if row.revoked_at is not None:
        raise Refused(close_codes.REVOKED)
    if row.expires_at is not None and row.expires_at <= timezone.now():
        raise Refused(close_codes.TOKEN_EXPIRED)
    if row.user is not None and not row.user.is_active:
        raise Refused(close_codes.DEACTIVATED)
    return Credential(
        client_id=row.client_id,
        user=row.user,
        token_id=row.pk,
        expires_at=row.expires_at,
    )
