"""Find the source of a Django request, behind trusted proxies."""

from collections.abc import Iterable

from django.http import HttpRequest

from connections.net.addresses import Source, find_source


def find_request_source(request: HttpRequest, trusted_proxies: Iterable[str]) -> Source:
    """Return the client's address, scheme and host, as far as they can be trusted."""
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in request.headers.items()
    ]
    return find_source(
        request.META.get("REMOTE_ADDR") or None,
        headers,
        trusted_proxies,
        is_secure=request.is_secure(),
    )
