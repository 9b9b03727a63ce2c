"""The whole WebSocket side of a project, put together in its order."""

from collections.abc import Awaitable, Sequence
from typing import Any, cast

from channels.routing import ProtocolTypeRouter, URLRouter
from django.apps import apps
from django.urls import URLPattern, path, re_path

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
from connections.pool import get_redis_url, require_valid_url
from connections.server.install import install


def protect(*, http: Any, websocket: Sequence[URLPattern]) -> Application:
    """
    Return an ASGI application for Django's views and these WebSocket routes.

    Before a consumer is reached: Host and Origin, the route, credentials. The
    dashboard's own socket is among the routes where the admin is installed. Where
    daphne is what imports this, its server becomes the one that protects itself.

    Raises:
        ConfigError: the configuration, or REDIS_URL, is wrong; nothing serves with it.
    """
    config = get_config()
    config.require_valid()
    require_valid_jwt(config.jwt)
    require_valid_url(get_redis_url())
    install()
    router = URLRouter([*map(_guard, websocket), *_find_dashboard(), _REST])
    return NodeMiddleware(
        ProtocolTypeRouter({"http": http, "websocket": OriginMiddleware(router)})
    )


def _find_dashboard() -> list[Any]:
    """Return the route of the dashboard, where there is an admin to show it."""
    if not apps.is_installed("django.contrib.admin"):
        return []
    from connections.dashboard.consumers import PATH, LiveConsumer

    # Guarded as the others are, but not declared: who watches is in no series.
    watched = CredentialMiddleware(LiveConsumer.as_asgi())
    return [path(PATH, cast(Any, _Named(PATH, watched)))]


def _guard(route: URLPattern) -> URLPattern:
    """Put the check of credentials behind a route: a probe learns 404 first."""
    callback: Any = route.callback
    if isinstance(callback, URLRouter):
        inner = URLRouter([*map(_guard, callback.routes), _REST])
        return URLPattern(route.pattern, inner, route.default_args, route.name)
    declare_route(str(route.pattern))
    named = _Named(str(route.pattern), CredentialMiddleware(callback))
    return URLPattern(route.pattern, named, route.default_args, route.name)


class _Named:
    """Notes the pattern of the route: a bounded label, unlike the path."""

    _asgi_single_callable = True  # What has no coroutine asgiref takes for ASGI 2.

    def __init__(self, pattern: str, application: Application) -> None:
        self.pattern = pattern
        self.application = application

    def __call__(self, scope: Message, receive: Receive, send: Send) -> Awaitable[None]:
        return self.application({**scope, "route": self.pattern}, receive, send)


async def _not_found(scope: Message, receive: Receive, send: Send) -> None:
    await deny(scope, send, 404)


# Channels' routes call ASGI applications, which Django's types do not know.
_REST = re_path(r"", cast(Any, _not_found))
