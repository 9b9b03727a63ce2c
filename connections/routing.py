"""Build the ASGI application of a project from views and WebSocket routes."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from channels.routing import ProtocolTypeRouter, URLRouter
from django.apps import apps
from django.urls import URLPattern, path, re_path

from connections.access.proxies import SchemeMiddleware
from connections.asgi import Application, Message, Receive, Send
from connections.config.auth_sections import DEFAULT_BACKENDS
from connections.config.loader import get_config
from connections.credentials.backends import require_valid_backends
from connections.credentials.jwt_config import require_valid_jwt
from connections.http_connection import HttpRoutes
from connections.metrics.counters import declare_route
from connections.middleware import (
    CredentialMiddleware,
    NodeMiddleware,
    OriginMiddleware,
    deny,
    refuse_origin,
)
from connections.pool import get_redis_url, require_usable_pool
from connections.server.install import install

logger = logging.getLogger(__name__)

Middleware = Callable[[Any], Any]
"""Takes an ASGI application, and returns one."""

_SCOPE_USER = "connections.credentials.ScopeUser"


def protect(
    *,
    http: Any,
    websocket: Sequence[URLPattern],
    live: Sequence[URLPattern] = (),
    middleware: Middleware | None = None,
) -> Application:
    """
    Return an ASGI application for Django's views and these WebSocket routes.

    It checks Host and Origin, the route, and credentials before a consumer, and
    gives requests the scheme that a trusted proxy names. It adds the route of the
    dashboard if the admin is installed. If daphne imports this module, Orchestra's
    server replaces daphne's.

    `live` are routes of consumers that are read over plain HTTP, by requests with
    `live=sse` or `live=long-poll`; all other requests for their paths go to `http`.

    `middleware`, for example AuthMiddlewareStack of Channels, stands before the
    check of credentials on each of the routes: what it puts into the scope is there
    for the credential backends, and for the consumer.

    Raises:
        ConfigError: the configuration or the pool cannot be used.
        TypeError: `websocket` is no list of routes.
    """
    if not isinstance(websocket, Sequence):
        raise TypeError(
            "websocket takes a list of routes, such as that of a URLRouter; protect() "
            "takes what stood around the router, such as AuthMiddlewareStack, as "
            "middleware=AuthMiddlewareStack"
        )
    config = get_config()
    config.require_valid()
    require_valid_jwt(config.jwt)
    require_valid_backends(config.credential_backends)
    require_usable_pool(config, get_redis_url())
    install()
    if middleware is None and _SCOPE_USER in config.credential_backends:
        logger.warning(
            "The credential backend %s finds no user: protect() has no middleware",
            _SCOPE_USER,
            extra={"event": "no_middleware"},
        )
    router = WebSocketRouter(websocket, middleware)
    application: Any = SchemeMiddleware(http)
    if live:
        guarded = OriginMiddleware(WebSocketRouter(live, middleware))
        application = HttpRoutes(application, NodeMiddleware(guarded), live)
    return NodeMiddleware(
        _TypeRouter({"http": application, "websocket": OriginMiddleware(router)})
    )


class _TypeRouter(ProtocolTypeRouter):
    """The router of Channels without a coroutine that lasts as its connection does."""

    def __call__(self, scope: Message, receive: Receive, send: Send) -> Awaitable[None]:
        application = self.application_mapping.get(scope["type"])
        if application is None:
            raise ValueError(f"no application for the scope type {scope['type']!r}")
        serving: Awaitable[None] = application(scope, receive, send)
        return serving


class WebSocketRouter:
    """
    Finds the route of a handshake, or answers 404.

    Routes do not name the script prefix, as URLs of Django do not. Channels
    ignores FORCE_SCRIPT_NAME, so a route written for it may name the prefix: the
    whole path is tried second.
    """

    # asgiref takes a callable that is no coroutine function for ASGI 2.
    _asgi_single_callable = True

    def __init__(
        self, routes: Sequence[URLPattern], middleware: Middleware | None = None
    ) -> None:
        self._middleware = middleware
        # The types of Django know no routes with ASGI applications, as Channels has.
        self._rest = re_path(r"", cast(Any, self._find_with_prefix))
        guarded = [self._guard(route) for route in routes]
        self._routes = URLRouter([*guarded, *_find_dashboard(), self._rest])

    def __call__(self, scope: Message, receive: Receive, send: Send) -> Awaitable[None]:
        # A route returns the call of its application and does not await it: the frame
        # of URLRouter, and the scope in it, would last as long as the connection.
        finding = self._routes(scope, receive, send)
        try:
            finding.send(None)
        except StopIteration as found:
            serving: Awaitable[None] = found.value
            return serving
        raise RuntimeError("a route is found without waiting")

    async def _find_with_prefix(
        self, scope: Message, receive: Receive, send: Send
    ) -> Awaitable[None]:
        if not scope.get("root_path"):
            return deny(scope, send, 404)
        whole = {**scope, "root_path": ""}
        for key in ("path_remaining", "url_route", "route"):
            whole.pop(key, None)
        return self(whole, receive, send)

    def _guard(self, route: URLPattern) -> URLPattern:
        """Check credentials behind a route, so that an unknown path gets 404 first."""
        callback: Any = route.callback
        if isinstance(callback, URLRouter):
            inner = URLRouter([*map(self._guard, callback.routes), self._rest])
            return URLPattern(route.pattern, inner, route.default_args, route.name)
        declare_route(str(route.pattern))
        guarded: Application = CredentialMiddleware(callback)
        if self._middleware is not None:
            guarded = self._middleware(guarded)
        named = _Named(str(route.pattern), guarded)
        return URLPattern(route.pattern, named, route.default_args, route.name)


def _find_dashboard() -> list[Any]:
    """Return the route of the dashboard if the admin is installed."""
    if not apps.is_installed("django.contrib.admin"):
        return []
    from connections.dashboard.consumers import PATH, LiveConsumer

    # It is guarded like the others, but not declared: viewers are in no metric.
    guarded = CredentialMiddleware(LiveConsumer.as_asgi(), DEFAULT_BACKENDS)
    return [path(PATH, cast(Any, _Named(PATH, guarded)))]


class _Named:
    """
    Puts the pattern of the route into the scope; unlike paths it is bounded.

    A call returns the call of the application, for the router to await.
    """

    def __init__(self, pattern: str, application: Application) -> None:
        self.pattern = pattern
        self.application = application

    async def __call__(
        self, scope: Message, receive: Receive, send: Send
    ) -> Awaitable[None]:
        scope = {**scope, "route": self.pattern}
        source = scope.pop("foreign_source", None)
        if source is not None:
            if "origin" not in scope["node"].config.enforce.find_observed(self.pattern):
                return refuse_origin(scope, send, source)
            # Whatever the configuration says: no cookie of another site's page counts.
            headers = [one for one in scope["headers"] if one[0] != b"cookie"]
            scope |= {"has_foreign_origin": True, "headers": headers}
        return self.application(scope, receive, send)
