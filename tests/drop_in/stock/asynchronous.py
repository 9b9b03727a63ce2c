"""Asynchronous consumers as Channels documents them and users write them."""

import asyncio
import datetime
import json

from channels.db import database_sync_to_async
from channels.exceptions import AcceptConnection, DenyConnection, StopConsumer
from channels.generic.websocket import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
)
from django.contrib.auth import get_user_model


class Echo(AsyncWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data=text_data, bytes_data=bytes_data)


class JsonEcho(AsyncJsonWebsocketConsumer):
    async def connect(self):
        await super().connect()
        await self.send_json({"hello": self.scope["path"]})

    async def receive_json(self, content):
        await self.send_json({"echo": content})


class Dates(AsyncJsonWebsocketConsumer):
    """Has a notation of its own."""

    async def receive_json(self, content, **kwargs):
        await self.send_json({"day": content["day"] + datetime.timedelta(days=1)})

    @classmethod
    async def decode_json(cls, text_data):
        content = json.loads(text_data)
        return {"day": datetime.date.fromisoformat(content["day"])}

    @classmethod
    async def encode_json(cls, content):
        return json.dumps(content, default=str)


class Member(AsyncWebsocketConsumer):
    """Is in a group by a class attribute, and speaks to its own channel."""

    groups = ["everyone"]

    async def receive(self, text_data=None, bytes_data=None):
        if text_data == "me":
            event = {"type": "note.arrived", "text": "only me"}
            await self.channel_layer.send(self.channel_name, event)
        else:
            event = {"type": "note_arrived", "text": text_data}
            await self.channel_layer.group_send("everyone", event)

    async def note_arrived(self, event):
        await self.send(event["text"])


class Subprotocols(AsyncWebsocketConsumer):
    async def connect(self):
        for name in ("v2", "v1"):
            if name in self.scope["subprotocols"]:
                await self.accept(subprotocol=name, headers=[(b"x-chosen", b"yes")])
                return
        await self.close()


class Doorkeeper(AsyncWebsocketConsumer):
    """Lets in and refuses in all the ways there are."""

    async def connect(self):
        manner = self.scope["url_route"]["kwargs"]["manner"]
        if manner == "close":
            await self.close()
        elif manner == "close-code":
            await self.close(code=4401)
        elif manner == "deny":
            raise DenyConnection()
        elif manner == "accept":
            raise AcceptConnection()
        elif manner == "accept-then-close":
            await self.accept()
            await self.close(code=4401)
        else:
            await self.accept()


class Farewell(AsyncWebsocketConsumer):
    """Closes as it is asked to, and writes down how it ended."""

    ended = []

    async def receive(self, text_data=None, bytes_data=None):
        manner, _, code = text_data.partition(" ")
        if manner == "close":
            await self.close(code=int(code) if code else None)
        elif manner == "reason":
            await self.close(code=int(code), reason="because")
        elif manner == "send-and-close":
            await self.send(text_data="bye", close=int(code) if code else True)
        elif manner == "stop":
            raise StopConsumer()

    async def stop_please(self, event):
        raise StopConsumer()

    async def disconnect(self, code):
        self.ended.append(code)


class Stopping(AsyncWebsocketConsumer):
    """Stops by an event of the channel layer."""

    groups = ["stopping"]

    async def stop_please(self, event):
        await self.send(text_data="stopping")
        raise StopConsumer()


class Users(AsyncWebsocketConsumer):
    """Asks the database, and knows its user."""

    async def connect(self):
        self.count = await self.count_users()
        await self.accept()

    async def receive(self, text_data=None, bytes_data=None):
        user = self.scope.get("user")
        is_known = user and user.is_authenticated
        name = await self.find_name(user.pk) if is_known else None
        await self.send(text_data=f"{name} of {self.count}")

    @database_sync_to_async
    def count_users(self):
        return get_user_model().objects.count()

    @database_sync_to_async
    def find_name(self, pk):
        return get_user_model().objects.get(pk=pk).username


class Ticker(AsyncWebsocketConsumer):
    """Runs a task beside its messages."""

    running = set()

    async def connect(self):
        await self.accept()
        self.task = asyncio.create_task(self.tick())
        self.running.add(self.task)

    async def tick(self):
        number = 0
        while True:
            number += 1
            await self.send(text_data=f"tick {number}")
            await asyncio.sleep(0.01)

    async def disconnect(self, code):
        self.task.cancel()


class Configured(AsyncWebsocketConsumer):
    """Takes arguments from as_asgi()."""

    def __init__(self, *args, greeting="hello", **kwargs):
        super().__init__(*args, **kwargs)
        self.greeting = greeting
        self.received = 0

    async def receive(self, text_data=None, bytes_data=None):
        self.received += 1
        await self.send(text_data=f"{self.greeting} {self.received}")


class Tracing:
    """A mixin around every event, as libraries bring them."""

    async def dispatch(self, message):
        self.seen = [*getattr(self, "seen", []), message["type"]]
        await super().dispatch(message)

    async def __call__(self, scope, receive, send):
        await super().__call__({**scope, "traced": True}, receive, send)


class Traced(Tracing, AsyncJsonWebsocketConsumer):
    async def receive_json(self, content):
        await self.send_json([self.scope["traced"], self.seen])


class Low(AsyncWebsocketConsumer):
    """Answers the events themselves."""

    async def websocket_connect(self, message):
        await self.accept()
        await self.send(text_data=message["type"])

    async def websocket_receive(self, message):
        await self.base_send({"type": "websocket.send", "text": message["text"] * 2})

    async def websocket_disconnect(self, message):
        raise StopConsumer()


class Careless(AsyncJsonWebsocketConsumer):
    """Fails where it is told to."""

    groups = ["careless"]

    async def connect(self):
        if self.scope["path"].endswith("/connect/"):
            raise ArithmeticError("planted")
        await self.accept()

    async def receive_json(self, content, **kwargs):
        if content == "fail":
            raise ArithmeticError("planted")
        if content == "send after close":
            await self.close()
            await self.send_json("too late")
        await self.send_json(content)


class Silent(AsyncJsonWebsocketConsumer):
    """Only ever sends: it has no receive_json()."""
