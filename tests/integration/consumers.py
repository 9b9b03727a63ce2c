"""
Limited consumers, one a path, that each exercise one feature of the middleware.

    daphne tests.integration.consumers:application

What happens to them is appended to the file that SEEN names.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orchestra.settings")
django.setup()

from channels.db import database_sync_to_async  # noqa: E402
from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.urls import path  # noqa: E402

from connections.consumers import LimitedConsumer, LimitedJsonConsumer  # noqa: E402
from connections.routing import protect  # noqa: E402
from tests.integration.access_changes import apply  # noqa: E402


def note(text: str) -> None:
    """Write down what happened."""
    with Path(os.environ["SEEN"]).open("a") as seen:
        seen.write(text + "\n")


class JsonConsumer(LimitedJsonConsumer):
    """Echoes, and notes its disconnect()."""

    async def handle_crash(self, content: dict[str, Any]) -> None:
        raise ArithmeticError("planted")

    async def handle_echo(self, content: dict[str, Any]) -> None:
        await self.send_json(content)

    async def disconnect(self, code: int) -> None:
        note(f"disconnect {code}")


class StuckConsumer(LimitedConsumer):
    """Never returns from a message, and does not mind being cancelled once."""

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        note("stuck")
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            note("cancelled")
            if text_data == "stubborn":
                await asyncio.sleep(3600)
            raise


class BroadcastConsumer(LimitedConsumer):
    """Sends so many messages of such a size when asked."""

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        count, size = map(int, (text_data or "0 0").split())
        for _ in range(count):
            await self.send(bytes_data=bytes(size))

    async def disconnect(self, code: int) -> None:
        note(f"disconnect {code}")


class SlowConsumer(LimitedConsumer):
    """Takes half a second for each message."""

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        await asyncio.sleep(0.5)

    async def disconnect(self, code: int) -> None:
        note(f"disconnect {code}")


class GroupConsumer(LimitedConsumer):
    """Sends what it gets to all, and says when something may be missing."""

    groups = ["everyone"]

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        await self.channel_layer.group_send(
            "everyone", {"type": "said", "text": text_data}
        )

    async def said(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"])

    async def channel_gap(self, event: dict[str, Any]) -> None:
        await self.send(text_data="gap")


class StaffConsumer(LimitedConsumer):
    """For users with a permission, in a group."""

    permission_required = "auth.view_user"
    groups_required = "staff"


class HesitantConsumer(LimitedConsumer):
    """Notes a handshake, and lets half a second pass before it accepts."""

    async def connect(self) -> None:
        note("hesitates")
        await asyncio.sleep(0.5)
        await self.accept()


class AccessChangeConsumer(LimitedJsonConsumer):
    """Apply changes of tests.integration.access_changes in the node's process."""

    async def handle_apply(self, content: dict[str, Any]) -> None:
        done = await database_sync_to_async(apply)(*content["change"])
        await self.send_json(done)


class LeakyConsumer(LimitedConsumer):
    """Raises all that it knows of its client, here or there."""

    async def connect(self) -> None:
        await self.accept()
        if self.scope["path"].endswith("connect"):
            raise ValueError("cannot connect", self.scope)

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        scope = self.scope
        try:
            raise KeyError(f"{scope['headers']} {scope['query_string'].decode()}")
        except KeyError as exc:
            raise ValueError(str(scope)) from exc


class LeakyForeignConsumer(AsyncWebsocketConsumer):
    """Channels' own, which raises all that it knows to the server."""

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        raise ValueError(f"failed: {self.scope}")


class ForeignConsumer(AsyncWebsocketConsumer):
    """A consumer of Channels' own, which the node does not know."""


application = protect(
    http=get_asgi_application(),
    websocket=[
        path("json/", JsonConsumer.as_asgi()),
        path("stuck/", StuckConsumer.as_asgi()),
        path("broadcast/", BroadcastConsumer.as_asgi()),
        path("slow/", SlowConsumer.as_asgi()),
        path("group/", GroupConsumer.as_asgi()),
        path("staff/", StaffConsumer.as_asgi()),
        path("hesitant/", HesitantConsumer.as_asgi()),
        path("access-changes/", AccessChangeConsumer.as_asgi()),
        path("leaky/", LeakyConsumer.as_asgi()),
        path("leaky/connect", LeakyConsumer.as_asgi()),
        path("leaky/foreign", LeakyForeignConsumer.as_asgi()),
        path("foreign/", ForeignConsumer.as_asgi()),
    ],
)
