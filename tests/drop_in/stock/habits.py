"""Consumers with habits that libraries for Channels have."""

import asyncio
import contextvars

from asgiref.sync import async_to_sync
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from django.utils import translation

speaker = contextvars.ContextVar("speaker", default="nobody")


class Switchboard(AsyncWebsocketConsumer):
    """Takes the layer's messages in its own dispatch(), without a method for each."""

    async def connect(self):
        await self.channel_layer.group_add("everyone", self.channel_name)
        await self.accept()

    async def dispatch(self, message):
        if message["type"].startswith("websocket."):
            await super().dispatch(message)
        else:
            await self.send(message["text"])


class SyncSwitchboard(WebsocketConsumer):
    def connect(self):
        async_to_sync(self.channel_layer.group_add)("everyone", self.channel_name)
        self.accept()

    async def dispatch(self, message):
        if message["type"].startswith("websocket."):
            await super().dispatch(message)
        else:
            await self.base_send_async(message["text"])

    async def base_send_async(self, text):
        await asyncio.to_thread(self.send, text)


class Delegating(AsyncWebsocketConsumer):
    """Starts a task for a message; the next message finds that it has begun."""

    groups = ["everyone"]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.begun = []
        self.tasks = set()

    async def receive(self, text_data=None, bytes_data=None):
        await self.send(f"{text_data}: {','.join(self.begun)}")
        task = asyncio.ensure_future(self.work(text_data))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def work(self, text):
        self.begun.append(text)

    async def note_arrived(self, event):
        await self.receive(event["text"])


class Speaking(AsyncWebsocketConsumer):
    """Keeps a language and a speaker in context variables, as tracing does too."""

    groups = ["everyone"]

    async def connect(self):
        translation.activate("de")
        speaker.set("connect")
        await self.accept()

    async def receive(self, text_data=None, bytes_data=None):
        await self.tell()
        speaker.set("receive")

    async def note_arrived(self, event):
        await self.tell()
        speaker.set("note")

    async def tell(self):
        await self.send(f"{translation.get_language()} {speaker.get()}")


class SyncSpeaking(WebsocketConsumer):
    groups = ["everyone"]

    def connect(self):
        translation.activate("de")
        speaker.set("connect")
        self.accept()

    def receive(self, text_data=None, bytes_data=None):
        self.tell()
        speaker.set("receive")

    def note_arrived(self, event):
        self.tell()
        speaker.set("note")

    def tell(self):
        self.send(f"{translation.get_language()} {speaker.get()}")


class Game(AsyncWebsocketConsumer):
    """Ends a game, not the connection, when the layer says so."""

    groups = ["everyone"]

    async def end(self, event):
        await self.send(event["text"])


class Renamed(AsyncWebsocketConsumer):
    """Has a name of its own for its channel, which a layer can deliver to."""

    channel_name = "not named yet"

    async def connect(self):
        self.channel_name = f"renamed.{len(self.channel_name) > 20}"
        await self.accept()
        await self.send(self.channel_name)


class Unnamed(AsyncWebsocketConsumer):
    """Never reads the name of its channel: another one knows it."""

    async def note_arrived(self, event):
        await self.send(event["text"])


class Choosing(AsyncWebsocketConsumer):
    """Accepts with a subprotocol that a test does not offer, and a list as header."""

    async def connect(self):
        await self.accept("chat", headers=[[b"x-chosen", b"yes"]])


class Ordered(AsyncWebsocketConsumer):
    """
    Sends back what it handles, after as many iterations of the loop as it says.

    A message of the client that ends with "+" puts "note" into its own channel.
    """

    async def receive(self, text_data=None, bytes_data=None):
        if text_data.endswith("+"):
            note = {"type": "note.arrived", "text": "0 note"}
            await self.channel_layer.send(self.channel_name, note)
        await self.tell(text_data)

    async def note_arrived(self, event):
        await self.tell(event["text"])

    async def tell(self, text):
        pauses, _, rest = text.partition(" ")
        for _ in range(int(pauses)):
            await asyncio.sleep(0)
        await self.send(rest)
