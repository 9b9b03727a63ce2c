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
        raise unauthenticated(
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
        raise explain_refusal(exc) from exc
    return credential, token


def explain_refusal(refused: Refused, what: str = "access token") -> ApiError:
    """Return the error for a refused access token, or another credential."""
    reason = refused.close_reason
    if reason is close_codes.UNAVAILABLE:
        return unavailable(f"The {what} cannot be verified now.")
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
        close_codes.REVOKED: f"The {what} is revoked.",
        close_codes.TOKEN_EXPIRED: f"The {what} has expired.",
        close_codes.DEACTIVATED: f"The user of the {what} is not active.",
    }
    return unauthenticated(words.get(reason, f"The {what} is not known."))


def unauthenticated(message: str) -> ApiError:
    """Return the error of a request without a valid credential."""
    return ApiError(401, "unauthenticated", message, {"WWW-Authenticate": "Bearer"})
