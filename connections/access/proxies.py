"""Give the scope of a request the scheme and the address that a proxy names."""

import dataclasses

from django.conf import settings

from connections.access.source_log import SourceLog
from connections.asgi import Application, Message, Receive, Send
from connections.config.loader import WebSocketConfig
from connections.net.addresses import Source, find_source

_SCHEMES = {
    ("http", False): "http",
    ("http", True): "https",
    ("websocket", False): "ws",
    ("websocket", True): "wss",
}
"""The scheme of a scope by its type and the security of its client."""


class SchemeMiddleware:
    """
    Gives HTTP requests the scheme that a trusted proxy names in X-Forwarded-Proto.

    Django's request.is_secure() returns it. The header is removed from the requests
    of other peers. Where SECURE_PROXY_SSL_HEADER is set, Django decides instead.
    """

    def __init__(self, application: Application) -> None:
        self.application = application
        self._log = SourceLog()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        source = find_scope_source(scope)
        self._log.record(source)
        await self.application(with_scheme(scope, source), receive, send)


def find_scope_source(scope: Message) -> Source:
    """
    Return the source of a request or handshake.

    A project's SECURE_PROXY_SSL_HEADER decides about TLS for both, as in Django's
    HttpRequest.scheme (django/http/request.py).
    """
    config: WebSocketConfig = scope["node"].config
    client = scope.get("client")
    source = find_source(
        str(client[0]) if client else None,
        scope["headers"],
        config.trusted_proxies,
        is_secure=scope.get("scheme") in ("https", "wss"),
    )
    if settings.SECURE_PROXY_SSL_HEADER:
        is_secure = _read_own_header(scope, *settings.SECURE_PROXY_SSL_HEADER)
        return dataclasses.replace(source, is_secure=is_secure)
    return source


def with_scheme(scope: Message, source: Source) -> Message:
    """Return the scope with the client's scheme, without a stranger's claim of it."""
    if settings.SECURE_PROXY_SSL_HEADER and scope["type"] == "http":
        return scope
    scheme = _SCHEMES[scope["type"], source.is_secure]
    if source.is_forwarded_by_stranger and not settings.SECURE_PROXY_SSL_HEADER:
        headers = [one for one in scope["headers"] if one[0] != b"x-forwarded-proto"]
        # The views that trust addresses must still know that the request was forwarded.
        return {**scope, "headers": headers, "is_forwarded_by_stranger": True}
    return scope if scope.get("scheme") == scheme else {**scope, "scheme": scheme}


def with_address(scope: Message, source: Source) -> Message:
    """Return the scope with the address of the client behind trusted proxies."""
    client = scope.get("client")
    if source.address and (client is None or client[0] != source.address):
        return {**scope, "client": [source.address, 0]}
    return scope


def _read_own_header(scope: Message, name: str, secure_value: str) -> bool:
    """Return True if the header of SECURE_PROXY_SSL_HEADER says that TLS is used."""
    key = name.removeprefix("HTTP_").replace("_", "-").lower().encode()
    values = [value for header, value in scope["headers"] if header == key]
    if not values:
        return scope.get("scheme") in ("https", "wss")
    first: str = values[0].decode("latin-1").partition(",")[0].strip()
    return first == secure_value
