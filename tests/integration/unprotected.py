"""The chat of Channels' tutorial with the base class changed, and nothing else."""

from typing import Any

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import re_path

django_application = get_asgi_application()

# These imports need the models.
from connections.consumers import LimitedJsonConsumer  # noqa: E402
from connections.routing import protect  # noqa: E402


class ChatConsumer(LimitedJsonConsumer):
    async def connect(self) -> None:
        room = self.scope["url_route"]["kwargs"]["room_name"]
        self.room_group_name = f"chat_{room}"
        await self.channel_layer.group_add(self.room_group_name, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.room_group_name, self.channel_name)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        message = {"type": "chat.message", "message": content["message"]}
        await self.channel_layer.group_send(self.room_group_name, message)

    async def chat_message(self, event: Any) -> None:
        await self.send_json({"message": event["message"]})


routes = [re_path(r"ws/chat/(?P<room_name>\w+)/$", ChatConsumer.as_asgi())]
application = ProtocolTypeRouter(
    {
        "http": django_application,
        "websocket": AuthMiddlewareStack(URLRouter(routes)),
    }
)
protected = protect(http=django_application, websocket=routes)
