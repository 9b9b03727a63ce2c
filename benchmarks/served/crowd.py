"""
The application that benchmarks.stalls measures, in any version of the project.

The folder of this module is on the path of the served version.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any

import django
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orchestra.settings")
django.setup()

from django.urls import path  # noqa: E402
from observed import observe  # type: ignore[import-not-found] # noqa: E402

from connections.consumers import LimitedConsumer  # noqa: E402
from connections.routing import protect  # noqa: E402
from orchestra.consumers import EchoConsumer  # noqa: E402
from sessions_history.consumers import SessionConsumer  # noqa: E402

_PIECES = 6_000


class OwnReference(LimitedConsumer):
    """A consumer that refers to itself in three ways."""

    async def connect(self) -> None:
        self.me = self
        self.later = self.send
        self.queue: asyncio.Queue[str] = asyncio.Queue()
        self.task = asyncio.create_task(self.pump())
        await self.accept()

    async def pump(self) -> None:
        await self.send(await self.queue.get())

    async def disconnect(self, code: int) -> None:
        self.task.cancel()


class Typist:
    """A responder that writes 20 pieces a second for five minutes."""

    async def respond(self, message: Any, history: Sequence[Any]) -> AsyncIterator[str]:
        for _ in range(_PIECES):
            yield "a word "
            await asyncio.sleep(0.05)


application = observe(
    protect(
        http=get_asgi_application(),
        websocket=[
            path("ws/echo/", EchoConsumer.as_asgi()),
            path("ws/own/", OwnReference.as_asgi()),
            path("ws/sessions/<str:session_id>/", SessionConsumer.as_asgi()),
        ],
    )
)
