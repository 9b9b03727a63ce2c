"""An echo, and a consumer with a bug."""

import django

django.setup()

from django.core.asgi import get_asgi_application  # noqa: E402
from django.urls import path  # noqa: E402

from connections.consumers import LimitedJsonConsumer  # noqa: E402
from connections.routing import protect  # noqa: E402
from orchestra.consumers import EchoConsumer  # noqa: E402

PRICES = {"apple": 1}


class OrderConsumer(LimitedJsonConsumer):
    """Looks a price up, and does not expect an unknown article."""

    async def handle_order(self, content: dict[str, str]) -> None:
        await self.send_json({"type": "price", "price": PRICES[content["article"]]})


application = protect(
    http=get_asgi_application(),
    websocket=[
        path("ws/echo/", EchoConsumer.as_asgi()),
        path("ws/orders/", OrderConsumer.as_asgi()),
    ],
)
