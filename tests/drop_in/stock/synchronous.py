"""Synchronous consumers as Channels documents them and users write them."""

from asgiref.sync import async_to_sync
from channels.exceptions import DenyConnection, StopConsumer
from channels.generic.websocket import JsonWebsocketConsumer, WebsocketConsumer
from django.contrib.auth import get_user_model


class Echo(WebsocketConsumer):
    def receive(self, text_data=None, bytes_data=None):
        self.send(text_data=text_data, bytes_data=bytes_data)


class JsonEcho(JsonWebsocketConsumer):
    def connect(self):
        super().connect()
        self.send_json({"hello": self.scope["path"]})

    def receive_json(self, content):
        self.send_json({"echo": content})


class Member(WebsocketConsumer):
    groups = ["everyone"]

    def receive(self, text_data=None, bytes_data=None):
        if text_data == "me":
            event = {"type": "note.arrived", "text": "only me"}
            async_to_sync(self.channel_layer.send)(self.channel_name, event)
        else:
            event = {"type": "note_arrived", "text": text_data}
            async_to_sync(self.channel_layer.group_send)("everyone", event)

    def note_arrived(self, event):
        self.send(event["text"])


class Subprotocols(WebsocketConsumer):
    def connect(self):
        for name in ("v2", "v1"):
            if name in self.scope["subprotocols"]:
                self.accept(subprotocol=name, headers=[(b"x-chosen", b"yes")])
                return
        self.close()


class Doorkeeper(WebsocketConsumer):
    def connect(self):
        manner = self.scope["url_route"]["kwargs"]["manner"]
        if manner == "close":
            self.close()
        elif manner == "close-code":
            self.close(code=4401)
        elif manner == "deny":
            raise DenyConnection()
        elif manner == "accept-then-close":
            self.accept()
            self.close(code=4401)
        else:
            self.accept()


class Farewell(WebsocketConsumer):
    ended = []

    def receive(self, text_data=None, bytes_data=None):
        manner, _, code = text_data.partition(" ")
        if manner == "close":
            self.close(code=int(code) if code else None)
        elif manner == "reason":
            self.close(code=int(code), reason="because")
        elif manner == "send-and-close":
            self.send(text_data="bye", close=int(code) if code else True)
        elif manner == "stop":
            raise StopConsumer()

    def disconnect(self, code):
        self.ended.append(code)


class Stopping(WebsocketConsumer):
    groups = ["stopping"]

    def stop_please(self, event):
        self.send(text_data="stopping")
        raise StopConsumer()


class Users(WebsocketConsumer):
    def connect(self):
        self.count = get_user_model().objects.count()
        self.accept()

    def receive(self, text_data=None, bytes_data=None):
        user = self.scope.get("user")
        name = None
        if user and user.is_authenticated:
            name = get_user_model().objects.get(pk=user.pk).username
        self.send(text_data=f"{name} of {self.count}")


class Configured(WebsocketConsumer):
    def __init__(self, *args, greeting="hello", **kwargs):
        super().__init__(*args, **kwargs)
        self.greeting = greeting
        self.received = 0

    def receive(self, text_data=None, bytes_data=None):
        self.received += 1
        self.send(text_data=f"{self.greeting} {self.received}")


class Low(WebsocketConsumer):
    def websocket_connect(self, message):
        self.accept()
        self.send(text_data=message["type"])

    def websocket_receive(self, message):
        self.base_send({"type": "websocket.send", "text": message["text"] * 2})

    def websocket_disconnect(self, message):
        raise StopConsumer()
