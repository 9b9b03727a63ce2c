"""Authenticate requests about sessions as the handshakes of their sockets."""

from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_protect

from connections.api.authentication import explain_refusal, unauthenticated
from connections.api.errors import forbidden
from connections.asgi import Message
from connections.credentials.handshake import remove_ambient
from connections.credentials.identity import Credential
from connections.exceptions import Refused
from connections.net.addresses import Source
from connections.net.origins import is_origin_allowed
from connections.node.node import Node
from connections.views.source import find_request_source

_SAFE_METHODS = ("GET", "HEAD")


async def authenticate(node: Node, request: HttpRequest) -> Credential:
    """
    Return the credential of a request: a bearer token, a ticket or a cookie.

    The backends of `credential_backends` find it. Any page can cause a request with
    a cookie, so one that changes something also needs Django's CSRF token. A client
    of an address alone is refused: behind an address there may be many people.

    Raises:
        ApiError: 401 without a valid credential, 403 for a foreign origin, for a
            missing CSRF token, for a ban, and for a credential that does not cover
            the path; 429 and 503.
    """
    source = find_request_source(request, node.config.trusted_proxies)
    scope = remove_ambient(_make_scope(node, request, source))
    is_explicit = node.authenticator.is_explicit(scope)
    await _check_page(node, request, source, is_explicit=is_explicit)
    try:
        await node.gate.open()
        node.gate.check_address(source.address)
        credential = await node.authenticator.authenticate(scope, source.address)
        if credential is None or credential.is_anonymous:
            raise unauthenticated(
                "Send an access token in the header Authorization: Bearer TOKEN, a "
                "ticket in the query, or the cookie of a signed-in user."
            )
        user_id = credential.user.pk if credential.user else None
        node.gate.check(credential.client_id, user_id, source.address)
    except Refused as exc:
        raise explain_refusal(exc, "credential") from exc
    if not credential.covers(scope["path"], scope["route"]):
        message = f"The credential does not cover {scope['path'][:80]}."
        raise forbidden("missing_scope", message)
    return credential


async def _check_page(
    node: Node, request: HttpRequest, source: Source, *, is_explicit: bool
) -> None:
    """
    Check the page that sent a request.

    Raises:
        ApiError: 403, it is of a foreign origin, or has no CSRF token.
    """
    origin = request.headers.get("Origin")
    is_reading = request.method in _SAFE_METHODS
    if not is_origin_allowed(
        [] if origin is None else [origin],
        host=source.host,
        is_secure=source.is_secure,
        allowed=node.config.allowed_origins,
        # Browsers send no Origin with a request that reads from the page's own site.
        has_own_credential=is_explicit or (is_reading and origin is None),
    ):
        message = "Pages of this origin are not allowed (allowed_origins)."
        raise forbidden("forbidden", message)
    if is_explicit or is_reading:
        return
    checked = await _check_csrf(request)
    if checked.status_code == 403:
        message = "Send Django's CSRF token in the header X-CSRFToken."
        raise forbidden("csrf", message)


@csrf_protect
async def _check_csrf(request: HttpRequest) -> HttpResponse:
    return HttpResponse(status=204)


def _make_scope(node: Node, request: HttpRequest, source: Source) -> Message:
    """Return the scope that the handshake of a socket would have."""
    return {
        "type": "http",
        "node": node,
        "path": request.path_info,
        "route": request.resolver_match.route if request.resolver_match else "",
        "scheme": "https" if source.is_secure else "http",
        "query_string": request.META.get("QUERY_STRING", "").encode("latin-1"),
        "headers": [
            (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
            for name, value in request.headers.items()
        ],
        "client": (source.address, 0),
        "subprotocols": [],
    }
