from django.urls import URLPattern, path

from connections.config import get_config
from orchestra.consumers import EchoConsumer


def websocket_urlpatterns() -> list[URLPattern]:
    """Return the WebSocket routes that the configuration switches on."""
    routes = []
    if get_config().echo_endpoint:
        routes.append(path("ws/echo/", EchoConsumer.as_asgi()))
    return routes
