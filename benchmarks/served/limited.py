"""Limited consumers of this project behind all of its middleware."""

import os
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.served.settings")
django_application = get_asgi_application()

from django.urls import path  # noqa: E402

from benchmarks.served.observed import observe  # noqa: E402
from connections.consumers import LimitedConsumer, LimitedJsonConsumer  # noqa: E402
from connections.routing import protect  # noqa: E402
from orchestra.consumers import EchoConsumer  # noqa: E402


class BroadcastConsumer(LimitedConsumer):
    """Send each message to all members, whose consumers send it."""

    groups = ["all"]

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        await self.channel_layer.group_send("all", {"type": "said", "text": text_data})

    async def said(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"])


class JsonConsumer(LimitedJsonConsumer):
    """Tell clients when they are to reconnect, as all consumers of JSON do."""


class DirectConsumer(LimitedConsumer):
    """Send each message to all members at once."""

    groups = ["direct"]

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        await self.broadcast("direct", text_data)


application = observe(
    protect(
        http=django_application,
        websocket=[
            path("ws/echo/", EchoConsumer.as_asgi()),
            path("ws/broadcast/", BroadcastConsumer.as_asgi()),
            path("ws/json/", JsonConsumer.as_asgi()),
            path("ws/direct/", DirectConsumer.as_asgi()),
        ],
    )
)
