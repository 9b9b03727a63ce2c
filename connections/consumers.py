"""
Consumers with limits, records and close reasons for their connections.

Change the base class of a Channels consumer to the class of the same kind here.
connect, receive, disconnect, groups and send work as Channels documents them.
"""

import asyncio
import functools
from collections.abc import Awaitable, Sequence
from typing import Any

from asgiref.sync import async_to_sync, markcoroutinefunction
from channels.consumer import SyncConsumer
from channels.db import database_sync_to_async
from channels.exceptions import (
    AcceptConnection,
    DenyConnection,
    InvalidChannelLayerError,
    StopConsumer,
)
from channels.generic.websocket import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    JsonWebsocketConsumer,
    WebsocketConsumer,
)
from channels.layers import get_channel_layer

from connections.asgi import Message, Receive, Send
from connections.config.loader import get_config
from connections.connection.channel import ConnectionChannel
from connections.connection.events import make_send
from connections.connection.methods import (
    INVALID_JSON,
    find_json_method,
    find_method,
    make_invalid_json,
    require_groups,
    require_text,
)
from connections.connection.observed import choose_runner
from connections.connection.public import ConsumerConnection
from connections.connection.refresh import holds_refresh, is_refresh, refresh
from connections.connection.runner import ConnectionRunner
from connections.connection.subclasses import check_names, put_libraries_first
from connections.connection.terms import read_terms
from connections.connection.unprotected import with_node
from connections.credentials.identity import identify
from connections.layers.broadcast import broadcast
from connections.limits import Limits
from connections.node.node import Node
from connections.telemetry.handshake import begin_handshake

_READY = (str, bytes, bytearray, memoryview)
"""What broadcast() sends as it is."""


class _Limited:
    """
    The common base of all limited consumers; it precedes the Channels class.

    Orchestra reads `is_activity`, `is_json`, `presence`, `get_client_id`,
    `get_limits`, `permission_required` and `groups_required`. A subclass that means
    something else by one of them is an error (ReservedName). A subclass may define
    `broadcast`, `end` and `connection` for a purpose of its own: nothing here reads
    them.
    """

    is_json = False

    permission_required: str | Sequence[str] = ()
    """The permission, or permissions, that the user must have at the handshake and
    while the connection lasts; without one of them it ends with 4003."""

    groups_required: str | Sequence[str] = ()
    """The group, or groups, that the user must be in; otherwise the same."""

    presence: Any = False
    """True: the client is online, and present in the room of its path. A method
    presence(self), which accept() calls, names other rooms: it returns a room, a
    Presence with public data, a list of them, or None. It may be a coroutine; that of a
    synchronous consumer runs in the thread of its handlers."""

    scope: Message
    channel_layer: Any
    channel_layer_alias: str
    channel_name: str | None
    """The connection's own channel; None while the channel layer is unreachable."""

    groups: list[str]
    base_send: Any
    websocket_receive: Any
    _orchestra_turn_seconds = 0.0
    """How long messages that wait are handled in a row. 0: other tasks run after each,
    as in Channels, so that a task which a handler creates begins before the next."""

    _orchestra_runner: ConnectionRunner
    _orchestra_connection: ConsumerConnection

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__ != __name__:
            put_libraries_first(cls, _Limited)
            check_names(cls)

    @classmethod
    def as_asgi(cls, **initkwargs: Any) -> Any:
        """
        Return the ASGI application that makes a consumer for each connection.

        Its call returns that of the consumer: a coroutine of its own, as in Channels,
        would last as long as the connection.
        """

        @functools.wraps(super().as_asgi(**initkwargs))  # type: ignore[misc]
        def application(
            scope: Message, receive: Receive, send: Send
        ) -> Awaitable[None]:
            return cls(**initkwargs)(scope, receive, send)

        return markcoroutinefunction(application)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        # This frame lasts as long as the connection: it holds no more than it must.
        await self._begin(scope, receive, send)
        await self._orchestra_runner.run()

    async def _begin(self, scope: Message, receive: Receive, send: Send) -> None:
        if "node" not in scope:
            scope = await with_node(scope, type(self))
        node: Node = scope["node"]
        scope, send = begin_handshake(scope, send, node)
        self.scope = scope
        self.channel_layer = get_channel_layer(self.channel_layer_alias)
        # No variable: the traceback of a failure in the terms refers to this frame.
        runner = self._orchestra_runner = choose_runner(scope)(
            *(self, scope, receive, send),
            node=node,
            terms=await read_terms(self, scope, node.config),
        )
        sender = runner.sender
        self._orchestra_connection = ConsumerConnection(
            runner.connection, sender, asyncio.get_running_loop()
        )
        transmit = sender.transmit
        self.base_send = (
            async_to_sync(transmit) if isinstance(self, SyncConsumer) else transmit
        )

    # A property would forbid a subclass to assign the name.
    @functools.cached_property
    def connection(self) -> ConsumerConnection:
        """
        The connection of this consumer, from connect() on.

        Has `id`, `client_id`, `limits`, `opened_at`, `end()`, and `send()` for
        messages that are no activity.
        """
        return self._orchestra_connection

    async def dispatch(self, message: Message) -> None:
        """
        Call the method for an event's type.

        Channels' own dispatch() enters the shared thread for each message to
        close old database connections; the node does that once a second for all.
        """
        if message.get("type") == "websocket.receive":
            await self.websocket_receive(message)
        else:
            await find_method(self, message)(message)

    def end(self, close_code: int, reason: str) -> None:
        """
        End the connection with a close code and a reason, from any thread.

        See ConsumerConnection.end().
        """
        self._orchestra_connection.end(close_code, reason)

    def is_activity(self, message: Message) -> bool:
        """
        Return True if a message of the client restarts the idle timeout.

        `message` is the ASGI event, with its payload in "text" or "bytes".
        """
        return True

    def get_client_id(self, scope: Message) -> str | None:
        """
        Return the client that the connection belongs to; limits count per client.

        The default is the client that the middleware found, else the user, else
        the address. With None the connection counts alone.
        """
        return identify(scope)

    def get_limits(self, scope: Message) -> Limits:
        """
        Return the limits of the connection; called once, before connect().

        The default is the configuration. dataclasses.replace() changes some, by
        scope["user"], scope["credential"] or scope["route"]. An override may be
        a coroutine, to read a plan first; it must not block.
        """
        node: Node | None = scope.get("node")
        return Limits.configured(node.config if node is not None else get_config())


class LimitedConsumer(_Limited, AsyncWebsocketConsumer):
    """channels.generic.websocket.AsyncWebsocketConsumer, limited."""

    async def broadcast(
        self,
        group: str,
        content: Any,
        *,
        exclude_self: bool = False,
        compress: bool = True,
    ) -> None:
        """
        Send a message to the clients of all members of a group, on all nodes.

        A str is sent as text, bytes as a binary message, and anything else as JSON.
        No method of a consumer runs. With exclude_self this client gets none; without
        compress the message is sent as it is.

        Raises:
            TypeError, ValueError: as connections.layers.broadcast.broadcast().
        """
        await broadcast(
            *(group, content),
            exclude=self.channel_name if exclude_self else None,
            compress=compress,
            using=self.channel_layer_alias,
        )

    async def send(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        close: bool | int = False,
        *,
        compress: bool = True,
    ) -> None:
        """
        Send a message; without compress it is sent as it is.

        A message that holds a secret beside text that others choose must not be
        compressed: its size would tell of the secret (BREACH).
        """
        # The same as in Channels, with one call less per message.
        if text_data is not None and compress:
            await self.base_send({"type": "websocket.send", "text": text_data})
        else:
            await self.base_send(make_send(text_data, bytes_data, compress))
        if close:
            await self.close(close)

    async def websocket_connect(self, message: Message) -> None:
        if self.groups:
            await _require_channel(self).join(require_groups(self.groups))
        try:
            await self.connect()
        except AcceptConnection:
            await self.accept()
        except DenyConnection:
            await self.close()

    async def websocket_disconnect(self, message: Message) -> None:
        if self.groups:
            await _require_channel(self).leave(self.groups)
        await self.disconnect(message["code"])
        raise StopConsumer()


class LimitedSyncConsumer(_Limited, WebsocketConsumer):
    """
    channels.generic.websocket.WebsocketConsumer, limited.

    Handlers run in the thread that Channels shares among all synchronous code
    of the process; prefer LimitedConsumer where many clients connect.
    """

    def send(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        close: bool | int = False,
        *,
        compress: bool = True,
    ) -> None:
        self.base_send(make_send(text_data, bytes_data, compress))
        if close:
            self.close(close)

    def broadcast(
        self,
        group: str,
        content: Any,
        *,
        exclude_self: bool = False,
        compress: bool = True,
    ) -> None:
        """
        Send a message to the clients of all members of a group, on all nodes.

        See LimitedConsumer.broadcast().
        """
        async_to_sync(broadcast)(
            *(group, content),
            exclude=self.channel_name if exclude_self else None,
            compress=compress,
            using=self.channel_layer_alias,
        )

    async def dispatch(self, message: Message) -> None:
        await database_sync_to_async(find_method(self, message))(message)

    def websocket_connect(self, message: Message) -> None:
        if self.groups:
            join = _require_channel(self).join
            async_to_sync(join)(require_groups(self.groups))
        try:
            self.connect()
        except AcceptConnection:
            self.accept()
        except DenyConnection:
            self.close()

    def websocket_disconnect(self, message: Message) -> None:
        if self.groups:
            async_to_sync(_require_channel(self).leave)(self.groups)
        self.disconnect(message["code"])
        raise StopConsumer()


class LimitedJsonConsumer(LimitedConsumer, AsyncJsonWebsocketConsumer):
    """
    channels.generic.websocket.AsyncJsonWebsocketConsumer, limited.

    Text that is not JSON gets an `error` message as its answer. The default
    receive_json() calls the method handle_x for {"type": "x", ...}. New
    credentials ({"type": "refresh", "token": ...}) are taken before it.
    """

    is_json = True

    async def broadcast(self, group: str, content: Any, **options: bool) -> None:
        if not isinstance(content, _READY):
            content = await self.encode_json(content)
        await super().broadcast(group, content, **options)

    def is_activity(self, message: Message) -> bool:
        return not holds_refresh(message)

    async def receive(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        **kwargs: Any,
    ) -> None:
        try:
            content = await self.decode_json(require_text(text_data))
        except INVALID_JSON as exc:
            raise make_invalid_json() from exc
        if is_refresh(content):
            await _refresh(self, content)
        else:
            await self.receive_json(content, **kwargs)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await find_json_method(self, content)(content, **kwargs)


class LimitedSyncJsonConsumer(LimitedSyncConsumer, JsonWebsocketConsumer):
    """channels.generic.websocket.JsonWebsocketConsumer, limited; JSON as above."""

    is_json = True

    def broadcast(self, group: str, content: Any, **options: bool) -> None:
        if not isinstance(content, _READY):
            content = self.encode_json(content)
        super().broadcast(group, content, **options)

    def is_activity(self, message: Message) -> bool:
        return not holds_refresh(message)

    def receive(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        **kwargs: Any,
    ) -> None:
        try:
            content = self.decode_json(require_text(text_data))
        except INVALID_JSON as exc:
            raise make_invalid_json() from exc
        if is_refresh(content):
            async_to_sync(_refresh)(self, content)
        else:
            self.receive_json(content, **kwargs)

    def receive_json(self, content: Any, **kwargs: Any) -> None:
        find_json_method(self, content)(content, **kwargs)


def _require_channel(consumer: _Limited) -> ConnectionChannel:
    """
    Return the channel of a consumer with groups.

    Raises:
        InvalidChannelLayerError: there is no channel layer that has groups.
    """
    channel = consumer._orchestra_runner.channel
    if channel is None or not hasattr(consumer.channel_layer, "group_add"):
        raise InvalidChannelLayerError(
            "BACKEND is unconfigured or doesn't support groups"
        )
    return channel


async def _refresh(consumer: _Limited, content: Message) -> None:
    """Put the connection on the credential of a message, and answer."""
    runner = consumer._orchestra_runner
    answer = await refresh(
        content,
        connection=runner.connection,
        scope=consumer.scope,
        node=consumer.scope["node"],
        get_client_id=consumer.get_client_id,
    )
    await runner.sender.send_json(answer)
