"""Send the Content Security Policy on Django 5.2; Django 6 has a middleware for it."""

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

HEADER = "Content-Security-Policy"

# Django's debug pages have inline styles and scripts.
_DEBUG_STATUSES = (404, 500)


@sync_and_async_middleware
def content_security_policy(get_response):  # type: ignore[no-untyped-def]
    """Add settings.SECURE_CSP to every response without a policy."""
    if iscoroutinefunction(get_response):

        async def middleware(request: HttpRequest) -> HttpResponseBase:
            return _complete(await get_response(request))

        return middleware

    def sync_middleware(request: HttpRequest) -> HttpResponseBase:
        return _complete(get_response(request))

    return sync_middleware


def _complete(response: HttpResponseBase) -> HttpResponseBase:
    if not (settings.DEBUG and response.status_code in _DEBUG_STATUSES):
        policy = "; ".join(
            " ".join((name, *sources)) for name, sources in settings.SECURE_CSP.items()
        )
        response.headers.setdefault(HEADER, policy)
    return response
