"""Authenticate requests of the API by their access tokens."""

from django.http import HttpRequest

from connections import close_codes
from connections.api.errors import ApiError, forbidden, unavailable
from connections.credentials.identity import Credential
from connections.exceptions import Refused
from connections.node.node import Node
from connections.views.source import find_request_source

_RETRY_SECONDS = 5


async def authenticate(node: Node, request: HttpRequest) -> tuple[Credential, str]:
    """
    Return the credential of a request's access token, and the token.

    Bans, and the limit on wrong credentials of an address, hold as for handshakes.

    Raises:
        ApiError: 401 without a valid token, 403 for a banned one, 429 and 503.
    """
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    token = text.strip()
    if scheme.lower() != "bearer" or not token:
        raise _unauthenticated(
            "Send an access token in the header Authorization: Bearer TOKEN."
        )
    address = find_request_source(request, node.config.trusted_proxies).address
    try:
        await node.gate.open()
        node.gate.check_address(address)
        async with node.gate.limit_guesses(address):
            credential = await node.verifier.verify_access_token(token)
        user_id = credential.user.pk if credential.user else None
        node.gate.check(credential.client_id, user_id, address)
    except Refused as exc:
        raise _explain(exc) from exc
    return credential, token


def _explain(refused: Refused) -> ApiError:
    """Return the error for a refusal."""
    reason = refused.close_reason
    if reason is close_codes.UNAVAILABLE:
        return unavailable("The access token cannot be verified now.")
    if reason is close_codes.BANNED:
        return forbidden("banned", "The client, the user or the address is banned.")
    if reason is close_codes.RATE_LIMITED:
        return ApiError(
            429,
            "rate_limited",
            "This address sent too many wrong credentials.",
            {"Retry-After": str(_RETRY_SECONDS)},
        )
    words = {
        close_codes.REVOKED: "The access token is revoked.",
        close_codes.TOKEN_EXPIRED: "The access token has expired.",
        close_codes.DEACTIVATED: "The user of the access token is not active.",
    }
    return _unauthenticated(words.get(reason, "The access token is not known."))


def _unauthenticated(message: str) -> ApiError:
    return ApiError(401, "unauthenticated", message, {"WWW-Authenticate": "Bearer"})
