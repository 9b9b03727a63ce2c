"""POST /api/tickets/: issue a ticket to a logged-in user or a token's owner."""

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, JsonResponse
from django.http.response import HttpResponseBase
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_POST

from connections import close_codes
from connections.close_codes import CloseReason
from connections.credentials.identity import Credential
from connections.exceptions import Refused
from connections.net.origins import is_origin_allowed
from connections.node.current import get_node
from connections.node.node import Node
from connections.storage.transactions import begin_no_transaction
from connections.views.own_loop import release_own_node
from connections.views.source import find_request_source

_STATUSES = {
    close_codes.BANNED: 403,
    close_codes.FORBIDDEN: 403,
    close_codes.RATE_LIMITED: 429,
    close_codes.UNAVAILABLE: 503,
}
"""Status codes by close reason; all other reasons are 401."""

_RETRY_SECONDS = 5


@login_not_required
@begin_no_transaction
@csrf_exempt
@never_cache
@require_POST
@release_own_node
async def tickets(request: HttpRequest) -> HttpResponseBase:
    """
    Issue a ticket: {"ticket": "…", "expires_in_seconds": 30}.

    Only a program or page that knows a bearer token can send it. Any page can
    cause a request with a session cookie, so such a request also needs Django's
    CSRF token.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return await _issue(request, token=token.strip())
    response: HttpResponseBase = await _issue_to_session(request)
    return response


@csrf_protect
async def _issue_to_session(request: HttpRequest) -> HttpResponseBase:
    return await _issue(request, token=None)


async def _issue(request: HttpRequest, *, token: str | None) -> HttpResponseBase:
    """Authenticate a request and issue a ticket to its client."""
    node = get_node()
    source = find_request_source(request, node.config.trusted_proxies)
    origin = request.headers.get("Origin")
    if not is_origin_allowed(
        [] if origin is None else [origin],
        host=source.host,
        is_secure=source.is_secure,
        allowed=node.config.allowed_origins,
        has_own_credential=token is not None,
    ):
        return _refuse(close_codes.FORBIDDEN, "this origin is not allowed")
    try:
        credential = await _authenticate(node, source.address, request, token)
        ticket = await node.verifier.issue_ticket(credential, origin or "")
    except Refused as exc:
        return _refuse(exc.close_reason, "the credentials are not accepted now")
    content = {
        "ticket": ticket,
        "expires_in_seconds": node.config.tickets.lifetime_seconds,
    }
    return JsonResponse(content, status=201)


async def _authenticate(
    node: Node, address: str, request: HttpRequest, token: str | None
) -> Credential:
    """
    Return the credential of a request, verified as in a handshake.

    Raises:
        Refused: the credential is invalid, or the client is banned.
    """
    await node.gate.open()
    node.gate.check_address(address)
    session_key = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
    if token is None and not session_key:
        raise Refused(close_codes.UNAUTHENTICATED)
    if token is not None:
        async with node.gate.limit_guesses(address):
            credential = await node.verifier.verify_token(token)
    else:
        credential = await node.verifier.verify_session(session_key or "")
    user_id = credential.user.pk if credential.user else None
    node.gate.check(credential.client_id, user_id, address)
    return credential


def _refuse(close_reason: CloseReason, message: str) -> JsonResponse:
    status = _STATUSES.get(close_reason, 401)
    response = JsonResponse(
        {"error": close_reason.reason, "message": message}, status=status
    )
    if status in (429, 503):
        response["Retry-After"] = str(_RETRY_SECONDS)
    if status == 401:
        response["WWW-Authenticate"] = "Bearer"
    return response
