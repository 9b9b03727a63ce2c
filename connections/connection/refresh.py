"""Change the credential of an open connection."""

import json
from collections.abc import Callable
from typing import Any

from django.contrib.auth.models import AnonymousUser

from connections import close_codes
from connections.asgi import Message
from connections.connection.scope import bound_client_id, find_user_id
from connections.credentials.channels_scope import copy_session
from connections.credentials.handshake import offer
from connections.credentials.identity import Credential
from connections.exceptions import InvalidMessage, Refused
from connections.hub.connection import LiveConnection
from connections.net.script_prefix import remove_script_prefix
from connections.node.node import Node
from connections.units import format_moment

_REFRESH_CHARACTERS = 20_000
"""The bound on the length of a message with a credential."""


def is_refresh(content: Any) -> bool:
    """Return True if a JSON message contains new credentials."""
    return (
        isinstance(content, dict)
        and content.get("type") == "refresh"
        and isinstance(content.get("token", content.get("ticket")), str)
    )


def holds_refresh(message: Message) -> bool:
    """Return True if an event of the client is a refresh, which is no activity."""
    text = message.get("text")
    if not text or len(text) > _REFRESH_CHARACTERS or '"refresh"' not in text:
        return False
    try:
        return is_refresh(json.loads(text))
    except (ValueError, RecursionError):
        return False


async def refresh(
    content: Message,
    *,
    connection: LiveConnection,
    scope: Message,
    node: Node,
    get_client_id: Callable[[Message], str | None],
) -> Message:
    """
    Change the credential of a connection to that of a message; return the answer.

    The new credential must belong to the same client and user, and cover the
    path and route of the connection. The scope changes with it.

    Raises:
        InvalidMessage: it does not; the connection keeps its credential.
    """
    try:
        credential = await _verify(content, connection, scope, node)
    except Refused as exc:
        raise InvalidMessage(
            _find_code(exc), f"refused: {exc.close_reason.reason}"
        ) from exc
    user = credential.user or AnonymousUser()
    changed = {"credential": credential, "user": user}
    if credential.session is not None:
        changed["session"] = copy_session(credential.session)
    client_id = get_client_id({**scope, **changed})
    if (
        client_id is None
        or bound_client_id(client_id) != connection.client_id
        or find_user_id(user) != connection.user_id
    ):
        raise InvalidMessage("invalid_message", "refused: another client's")
    if not credential.covers(remove_script_prefix(scope), scope.get("route", "")):
        raise InvalidMessage("invalid_message", "refused: not good for this place")
    scope.update(changed)
    node.hub.renew(connection, credential)
    # A revocation since the verification did not reach this connection.
    node.reauthoriser.ask(connection)
    return {"type": "refreshed", "expires_at": format_moment(credential.expires_at)}


async def _verify(
    content: Message, connection: LiveConnection, scope: Message, node: Node
) -> Credential:
    """
    Return the credential of a message.

    Raises:
        Refused: it is not valid, or its address sent too many wrong ones.
    """
    if node.database is None:
        raise Refused(close_codes.UNAVAILABLE)
    address = connection.source_address
    node.gate.check_address(address)
    token = content.get("token")
    ticket = content.get("ticket") if token is None else None
    offered = offer(scope, token=token, ticket=ticket)
    credential = await node.authenticator.authenticate(offered, address)
    if credential is None:
        raise Refused(close_codes.UNAUTHENTICATED)
    return credential


def _find_code(refused: Refused) -> str:
    """Return the error code of a refused credential."""
    if refused.close_reason in (close_codes.UNAVAILABLE, close_codes.RATE_LIMITED):
        return refused.close_reason.reason
    return "invalid_message"
