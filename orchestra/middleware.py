"""Restrict what every page may load (Content Security Policy)."""

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

HEADER = "Content-Security-Policy"
POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
"""The policy: nothing from other origins, no inline script or style."""

# Django's debug pages have inline styles and scripts.
_DEBUG_STATUSES = (404, 500)


@sync_and_async_middleware
def content_security_policy(get_response):  # type: ignore[no-untyped-def]
    """Add the policy to every response without one."""
    if iscoroutinefunction(get_response):

        async def middleware(request: HttpRequest) -> HttpResponseBase:
            return _complete(await get_response(request))

        return middleware

    def sync_middleware(request: HttpRequest) -> HttpResponseBase:
        return _complete(get_response(request))

    return sync_middleware


def _complete(response: HttpResponseBase) -> HttpResponseBase:
    if not (settings.DEBUG and response.status_code in _DEBUG_STATUSES):
        response.headers.setdefault(HEADER, POLICY)
    return response
