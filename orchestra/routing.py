from django.urls import URLPattern, path

from connections.config.loader import get_config
from orchestra.consumers import EchoConsumer
from sessions_history.consumers import SessionConsumer


def websocket_urlpatterns() -> list[URLPattern]:
    """Return the WebSocket routes, with those that the configuration switches on."""
    routes = [path("ws/sessions/<str:session_id>/", SessionConsumer.as_asgi())]
    if get_config().echo_endpoint:
        routes.append(path("ws/echo/", EchoConsumer.as_asgi()))
    return routes
