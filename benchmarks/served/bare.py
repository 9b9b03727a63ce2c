"""Channels as in its tutorial, and the same behind AuthMiddlewareStack."""

import os
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.served.settings")
django_application = get_asgi_application()

from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path  # noqa: E402

from benchmarks.served.observed import observe  # noqa: E402


class EchoConsumer(AsyncWebsocketConsumer):
    """Send every message back."""

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        await self.send(text_data=text_data, bytes_data=bytes_data)


class BroadcastConsumer(AsyncWebsocketConsumer):
    """Send each message to all members."""

    groups = ["all"]

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        await self.channel_layer.group_send("all", {"type": "said", "text": text_data})

    async def said(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"])


routes = URLRouter(
    [
        path("ws/echo/", EchoConsumer.as_asgi()),
        path("ws/broadcast/", BroadcastConsumer.as_asgi()),
        path("ws/auth/", AuthMiddlewareStack(EchoConsumer.as_asgi())),
    ]
)
application = observe(
    ProtocolTypeRouter({"http": django_application, "websocket": routes})
)
