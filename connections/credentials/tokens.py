"""Create and verify access tokens, which are random and stored as a hash."""

import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from django.db import DatabaseError
from django.utils import timezone
from django.utils.crypto import constant_time_compare

from connections import close_codes
from connections.audit import record
from connections.credentials.identity import (
    Credential,
    check_client_id,
    check_scope,
    name_token,
)
from connections.exceptions import Refused, WrongCredential
from connections.models import AccessToken, AuditEntry, CloseRequest
from connections.models.alias import atomic
from connections.models.clock import Now
from connections.models.credentials import digest_token
from connections.units import as_utc

_TOKEN_BYTES = 32
_HINT_CHARACTERS = 6


def create_access_token(
    client_id: str,
    *,
    user: Any = None,
    scopes: Sequence[str] = (),
    expires_at: datetime | None = None,
) -> tuple[str, AccessToken]:
    """
    Create a token; return it with its row. It cannot be read again.

    The token is base64url without padding, so it can be a WebSocket
    subprotocol (RFC 6455, section 4.1: a token of RFC 2616).

    Raises:
        ValueError: a scope is neither a path nor a route, or the client id is
            reserved.
    """
    check_client_id(client_id, user)
    for scope in scopes:
        check_scope(scope)
    row = AccessToken(
        client_id=client_id, user=user, scopes=list(scopes), expires_at=expires_at
    )
    return issue(row), row


def issue(row: AccessToken) -> str:
    """Save a new row with a new token, and return the token."""
    while (token := secrets.token_urlsafe(_TOKEN_BYTES)).startswith("-"):
        continue  # A command would take it for an option.
    row.token = token
    row.digest = digest_token(row.token)
    row.hint = row.token[:_HINT_CHARACTERS]
    with atomic():
        row.save(force_insert=True)
        record(
            AuditEntry(
                action="issue",
                target=CloseRequest.Target.TOKEN,
                value=str(row.pk),
                facts={"client": row.client_id, "scopes": row.scopes},
            )
        )
    return row.token


def verify_access_token(token: str) -> Credential:
    """
    Return the credential of a token; reads the database.

    Raises:
        Refused: the token is unknown, expired or revoked, or its user inactive.
    """
    (found,) = verify_access_tokens([token])
    if isinstance(found, Exception):
        raise found
    return found


def verify_access_tokens(tokens: Sequence[str]) -> list[Credential | Exception]:
    """
    Return the credential or the refusal of each token, in one query.

    A token whose check fails, for example in a project's get_username(), gets the
    exception; the others are checked.
    """
    rows = AccessToken.objects.find_all(tokens)
    found: list[Credential | Exception] = []
    for token in tokens:
        try:
            found.append(_check(digest_token(token), rows))
        except DatabaseError:
            raise  # It concerns all of them.
        except Exception as exc:
            found.append(exc)
    return found


def _check(digest: str, rows: dict[str, AccessToken]) -> Credential | Refused:
    row = rows.get(digest)
    if row is None or not constant_time_compare(row.digest, digest):
        return WrongCredential(close_codes.UNAUTHENTICATED)
    return check(row)


def check(row: AccessToken) -> Credential | Refused:
    """Return the credential of a row, or its refusal."""
    if row.revoked_at is not None:
        return Refused(close_codes.REVOKED)
    if row.expires_at is not None and row.expires_at <= timezone.now():
        return Refused(close_codes.TOKEN_EXPIRED)
    # No constraint ensures that the user of a token still exists.
    if row.user_id is not None and (row.user is None or not row.user.is_active):
        return Refused(close_codes.DEACTIVATED)
    return Credential(
        client_id=name_token(row.client_id, row.user),
        user=row.user,
        token_id=row.pk,
        expires_at=as_utc(row.expires_at) if row.expires_at else None,
        scopes=tuple(row.scopes),
    )


def record_use(token_ids: Iterable[int]) -> None:
    """Record the use of tokens at the current time, in one query."""
    AccessToken.objects.filter(pk__in=token_ids).update(last_used_at=Now())
