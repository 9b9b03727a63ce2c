"""
Issue and redeem single-use tickets, which pages put into the URL of a WebSocket.

A ticket stands for the credential of its request. Redeeming it verifies that
credential again, so that a revocation in between takes effect.
"""

import secrets
from typing import Any

from connections import close_codes
from connections.config.auth_sections import JwtConfig, TicketsConfig
from connections.credentials.identity import Credential
from connections.credentials.jwt_config import make_jwt_verifier
from connections.credentials.sessions import verify_session
from connections.credentials.tokens import check
from connections.exceptions import Refused, WrongCredential
from connections.models import Ticket
from connections.models.credentials import digest_token
from connections.models.sweep import delete_some
from connections.net.origins import parse_origin
from connections.storage.text import is_storable_json
from connections.units import utc_now

_SESSION_KEY_CHARACTERS = 255
"""The longest key that fits the column. A session kept in its cookie is its key."""

_TICKET_BYTES = 32
_PRUNED_AT_ONCE = 200


def issue_ticket(
    credential: Credential, origin: str, config: TicketsConfig
) -> str | None:
    """
    Return a new ticket, or None if its client has too many recent ones.

    `origin` is the Origin header of the page, or empty; the handshake must have
    the same.

    Raises:
        Refused: the session has no key that can be stored, or the claims of a
            JWT cannot be stored.
    """
    session = credential.session
    session_key = session.session_key if session is not None else ""
    is_too_long = len(session_key) > _SESSION_KEY_CHARACTERS
    if is_too_long or not is_storable_json(dict(credential.claims)):
        raise Refused(close_codes.FORBIDDEN, credential.client_id)
    delete_some(Ticket.objects.older_than(2 * config.lifetime_seconds), _PRUNED_AT_ONCE)
    client_digest = digest_token(credential.client_id)
    recent = Ticket.objects.younger_than(config.lifetime_seconds)
    if recent.filter(client_digest=client_digest).count() >= config.max_per_client:
        return None
    ticket = secrets.token_urlsafe(_TICKET_BYTES)
    Ticket.objects.create(
        digest=digest_token(ticket),
        client_digest=client_digest,
        token_id=credential.token_id,
        session_key=session_key,
        claims=dict(credential.claims),
        origin=_name_origin(origin),
    )
    return ticket


def redeem_ticket(
    ticket: str, origin: str, config: TicketsConfig, jwt: JwtConfig
) -> Credential:
    """
    Consume a ticket, and return its credential.

    A refused ticket is consumed too: of two clients with one ticket, one has
    stolen it.

    Raises:
        Refused: the ticket is unknown, used, too old or of another origin, or
            its credential is no longer valid.
    """
    row = Ticket.objects.take(ticket, config.lifetime_seconds)
    if row is None and not Ticket.objects.filter(digest=digest_token(ticket)).exists():
        raise WrongCredential(close_codes.UNAUTHENTICATED)
    if row is None or row.origin != _name_origin(origin):
        raise Refused(close_codes.UNAUTHENTICATED)
    if row.token is not None:
        found = check(row.token)
        if isinstance(found, Refused):
            raise found
        return found
    if row.session_key:
        return verify_session(row.session_key)
    return _verify_claims(row.claims, jwt)


def _verify_claims(claims: Any, config: JwtConfig) -> Credential:
    verifier = make_jwt_verifier(config)
    if verifier is None or not claims:
        raise Refused(close_codes.UNAUTHENTICATED)
    credential = verifier.make_credential(claims)
    if credential.expires_at is not None and credential.expires_at <= utc_now():
        raise Refused(close_codes.TOKEN_EXPIRED)
    return credential


def _name_origin(header: str) -> str:
    """Return an origin with its port, as one normal form."""
    origin = parse_origin(header)
    return str(origin) if origin else ""
