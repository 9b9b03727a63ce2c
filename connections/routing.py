"""Build the ASGI application of a project from views and WebSocket routes."""

from collections.abc import Awaitable, Sequence
from typing import Any, cast

from channels.routing import ProtocolTypeRouter, URLRouter
from django.apps import apps
from django.urls import URLPattern, path, re_path

from connections.access.proxies import SchemeMiddleware
from connections.asgi import Application, Message, Receive, Send
from connections.config.loader import get_config
from connections.credentials.jwt_config import require_valid_jwt
from connections.metrics.counters import declare_route
from connections.middleware import (
    CredentialMiddleware,
    NodeMiddleware,
    OriginMiddleware,
    deny,
)
from connections.pool import get_redis_url, require_valid_redis
from connections.server.install import install


def protect(*, http: Any, websocket: Sequence[URLPattern]) -> Application:
    """
    Return an ASGI application for Django's views and these WebSocket routes.

    It checks Host and Origin, the route, and credentials before a consumer, and
    gives requests the scheme that a trusted proxy names. It adds the route of the
    dashboard if the admin is installed. If daphne imports this module, Orchestra's
    server replaces daphne's.

    Raises:
        ConfigError: the configuration or REDIS_URL is not valid.
    """
    config = get_config()
    config.require_valid()
    require_valid_jwt(config.jwt)
    require_valid_redis(get_redis_url())
    install()
    router = WebSocketRouter(websocket)
    return NodeMiddleware(
        ProtocolTypeRouter(
            {"http": SchemeMiddleware(http), "websocket": OriginMiddleware(router)}
        )
    )


class WebSocketRouter:
    """
    Finds the route of a handshake, or answers 404.

    Routes do not name the script prefix, as URLs of Django do not. Channels
    ignores FORCE_SCRIPT_NAME, so a route written for it may name the prefix: the
    whole path is tried second.
    """

    # asgiref takes a callable that is no coroutine function for ASGI 2.
    _asgi_single_callable = True

    def __init__(self, routes: Sequence[URLPattern]) -> None:
        # The types of Django know no routes with ASGI applications, as Channels has.
        self._rest = re_path(r"", cast(Any, self._find_with_prefix))
        guarded = [self._guard(route) for route in routes]
        self._routes = URLRouter([*guarded, *_find_dashboard(), self._rest])

    def __call__(self, scope: Message, receive: Receive, send: Send) -> Awaitable[None]:
        routing: Awaitable[None] = self._routes(scope, receive, send)
        return routing

    async def _find_with_prefix(
        self, scope: Message, receive: Receive, send: Send
    ) -> None:
        if not scope.get("root_path"):
            await deny(scope, send, 404)
            return
        whole = {**scope, "root_path": ""}
        for key in ("path_remaining", "url_route", "route"):
            whole.pop(key, None)
        await self(whole, receive, send)

    def _guard(self, route: URLPattern) -> URLPattern:
        """Check credentials behind a route, so that an unknown path gets 404 first."""
        callback: Any = route.callback
        if isinstance(callback, URLRouter):
            inner = URLRouter([*map(self._guard, callback.routes), self._rest])
            return URLPattern(route.pattern, inner, route.default_args, route.name)
        declare_route(str(route.pattern))
        named = _Named(str(route.pattern), CredentialMiddleware(callback))
        return URLPattern(route.pattern, named, route.default_args, route.name)


def _find_dashboard() -> list[Any]:
    """Return the route of the dashboard if the admin is installed."""
    if not apps.is_installed("django.contrib.admin"):
        return []
    from connections.dashboard.consumers import PATH, LiveConsumer

    # It is guarded like the others, but not declared: viewers are in no metric.
    guarded = CredentialMiddleware(LiveConsumer.as_asgi())
    return [path(PATH, cast(Any, _Named(PATH, guarded)))]


class _Named:
    """Puts the pattern of the route into the scope; unlike paths it is bounded."""

    # asgiref takes a callable that is no coroutine function for ASGI 2.
    _asgi_single_callable = True

    def __init__(self, pattern: str, application: Application) -> None:
        self.pattern = pattern
        self.application = application

    def __call__(self, scope: Message, receive: Receive, send: Send) -> Awaitable[None]:
        return self.application({**scope, "route": self.pattern}, receive, send)
