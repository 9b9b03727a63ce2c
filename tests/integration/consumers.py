"""
Limited consumers, one a path, that each exercise one feature of the middleware.

    daphne tests.integration.consumers:application

Consumers append their events to the file that SEEN names.
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
from connections.presence import Presence  # noqa: E402
from connections.routing import protect  # noqa: E402
from tests.integration.access_changes import apply  # noqa: E402


def note(text: str) -> None:
    """Append an event to the file that SEEN names."""
    with Path(os.environ["SEEN"]).open("a") as seen:
        seen.write(text + "\n")


class JsonConsumer(LimitedJsonConsumer):
    """Echo messages; record disconnect()."""

    async def handle_crash(self, content: dict[str, Any]) -> None:
        raise ArithmeticError("planted")

    async def handle_echo(self, content: dict[str, Any]) -> None:
        await self.send_json(content)

    async def disconnect(self, code: int) -> None:
        note(f"disconnect {code}")


class StuckConsumer(LimitedConsumer):
    """Never return from a message; "stubborn" survives one cancellation."""

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
    """Send the requested number of messages of the requested size."""

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        count, size = map(int, (text_data or "0 0").split())
        for _ in range(count):
            await self.send(bytes_data=bytes(size))

    async def disconnect(self, code: int) -> None:
        note(f"disconnect {code}")


class SlowConsumer(LimitedConsumer):
    """Take half a second for each message."""

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        await asyncio.sleep(0.5)

    async def disconnect(self, code: int) -> None:
        note(f"disconnect {code}")


class GroupConsumer(LimitedConsumer):
    """Send each message to the group; send "gap" after a gap."""

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


class DirectConsumer(LimitedConsumer):
    """Broadcast the requested number of messages of the requested size."""

    groups = ["direct"]

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        count, size = map(int, (text_data or "0 0").split())
        for number in range(count):
            await self.broadcast("direct", str(number).ljust(size))
            await asyncio.sleep(0)


class PresenceConsumer(LimitedJsonConsumer):
    """Make the member of the query string present in the lobby."""

    def get_client_id(self, scope: dict[str, Any]) -> str:
        return str(scope["query_string"].decode())

    def presence(self) -> Presence:
        return Presence("lobby", {"name": self.connection.client_id})


class StaffConsumer(LimitedConsumer):
    """Require a permission and a group."""

    permission_required = "auth.view_user"
    groups_required = "staff"


class HesitantConsumer(LimitedConsumer):
    """Record the handshake, and accept after half a second."""

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
    """Raise an error with all the client's values, in connect() or receive()."""

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
    """A consumer of Channels that raises its scope to the server."""

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        raise ValueError(f"failed: {self.scope}")


class ForeignConsumer(AsyncWebsocketConsumer):
    """A consumer of Channels, not derived from a Limited base."""


application = protect(
    http=get_asgi_application(),
    websocket=[
        path("json/", JsonConsumer.as_asgi()),
        path("stuck/", StuckConsumer.as_asgi()),
        path("broadcast/", BroadcastConsumer.as_asgi()),
        path("slow/", SlowConsumer.as_asgi()),
        path("group/", GroupConsumer.as_asgi()),
        path("direct/", DirectConsumer.as_asgi()),
        path("presence/", PresenceConsumer.as_asgi()),
        path("staff/", StaffConsumer.as_asgi()),
        path("hesitant/", HesitantConsumer.as_asgi()),
        path("access-changes/", AccessChangeConsumer.as_asgi()),
        path("leaky/", LeakyConsumer.as_asgi()),
        path("leaky/connect", LeakyConsumer.as_asgi()),
        path("leaky/foreign", LeakyForeignConsumer.as_asgi()),
        path("foreign/", ForeignConsumer.as_asgi()),
    ],
)
