"""
Consumers with limits, records and close reasons for their connections.

Change the base class of a Channels consumer to the class of the same kind here.
connect, receive, disconnect, groups and send work as Channels documents them.
"""

import asyncio
import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from asgiref.sync import async_to_sync
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
from connections.connection.channel import ConnectionChannel
from connections.connection.compat import get_handler_name
from connections.connection.layer_messages import is_callable_by_type
from connections.connection.public import ConsumerConnection
from connections.connection.refresh import holds_refresh, is_refresh, refresh
from connections.connection.runner import ConnectionRunner
from connections.connection.subclasses import check_names, put_libraries_first
from connections.connection.terms import read_terms
from connections.credentials.identity import identify
from connections.exceptions import InvalidMessage, UnknownEvent
from connections.limits import Limits
from connections.node.current import get_detached_node
from connections.node.node import Node


class _Limited:
    """
    The common base of all limited consumers; it precedes the Channels class.

    Orchestra reads `is_activity`, `is_json`, `get_client_id`, `get_limits`,
    `permission_required` and `groups_required`. A subclass that means something else
    by one of them is an error (ReservedName). A subclass may define `end` and
    `connection` for a purpose of its own: nothing here reads them.
    """

    is_json = False

    permission_required: str | Sequence[str] = ()
    """The permission, or permissions, that the user must have at the handshake and
    while the connection lasts; without one of them it ends with 4003."""

    groups_required: str | Sequence[str] = ()
    """The group, or groups, that the user must be in; otherwise the same."""

    scope: Message
    channel_layer: Any
    channel_layer_alias: str
    channel_name: str | None
    """The connection's own channel; None while the channel layer is unreachable."""

    groups: list[str]
    base_send: Any
    websocket_receive: Any
    _orchestra_runner: ConnectionRunner
    _orchestra_connection: ConsumerConnection

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__ != __name__:
            put_libraries_first(cls, _Limited)
            check_names(cls)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.channel_layer = get_channel_layer(self.channel_layer_alias)
        node = _find_node(scope)
        # No variable: the traceback of a failure in the terms refers to this frame.
        runner = self._orchestra_runner = ConnectionRunner(
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
        await runner.run()

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
            await _find_method(self, message)(message)

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
        return Limits.configured(_find_node(scope).config)


class LimitedConsumer(_Limited, AsyncWebsocketConsumer):
    """channels.generic.websocket.AsyncWebsocketConsumer, limited."""

    async def send(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        close: bool | int = False,
    ) -> None:
        # The same as in Channels, with one call less per message.
        if text_data is not None:
            await self.base_send({"type": "websocket.send", "text": text_data})
        elif bytes_data is not None:
            await self.base_send({"type": "websocket.send", "bytes": bytes_data})
        else:
            raise ValueError("send() takes text_data or bytes_data")
        if close:
            await self.close(close)

    async def websocket_connect(self, message: Message) -> None:
        if self.groups:
            await _require_channel(self).join(_require_groups(self.groups))
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

    async def dispatch(self, message: Message) -> None:
        await database_sync_to_async(_find_method(self, message))(message)

    def websocket_connect(self, message: Message) -> None:
        if self.groups:
            join = _require_channel(self).join
            async_to_sync(join)(_require_groups(self.groups))
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

    def is_activity(self, message: Message) -> bool:
        return not holds_refresh(message)

    async def receive(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        **kwargs: Any,
    ) -> None:
        with _raise_invalid_json():
            content = await self.decode_json(_require_text(text_data))
        if is_refresh(content):
            await _refresh(self, content)
        else:
            await self.receive_json(content, **kwargs)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await _find_json_method(self, content)(content, **kwargs)


class LimitedSyncJsonConsumer(LimitedSyncConsumer, JsonWebsocketConsumer):
    """channels.generic.websocket.JsonWebsocketConsumer, limited; JSON as above."""

    is_json = True

    def is_activity(self, message: Message) -> bool:
        return not holds_refresh(message)

    def receive(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        **kwargs: Any,
    ) -> None:
        with _raise_invalid_json():
            content = self.decode_json(_require_text(text_data))
        if is_refresh(content):
            async_to_sync(_refresh)(self, content)
        else:
            self.receive_json(content, **kwargs)

    def receive_json(self, content: Any, **kwargs: Any) -> None:
        _find_json_method(self, content)(content, **kwargs)


def _find_node(scope: Message) -> Node:
    """Return the node of the middleware, or without it the detached node."""
    return scope.get("node") or get_detached_node()


def _require_groups(groups: object) -> Iterable[str]:
    """
    Return the groups of a consumer.

    Raises:
        TypeError: they are no list of names; a str would be a group per letter.
    """
    if not isinstance(groups, list | tuple | set | frozenset):
        raise TypeError(f"groups is a list of names, not {type(groups).__name__}")
    return groups


def _find_method(consumer: _Limited, message: Message) -> Callable[[Message], Any]:
    """
    Return the method for an event.

    Raises:
        UnknownEvent: there is none.
    """
    try:
        name = get_handler_name(message)
    except (ValueError, AttributeError, TypeError) as exc:
        raise UnknownEvent(message.get("type")) from exc
    method: Callable[[Message], Any] | None = getattr(consumer, name, None)
    if method is None or not is_callable_by_type(type(consumer), name):
        raise UnknownEvent(message["type"])
    return method


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
        node=_find_node(consumer.scope),
        get_client_id=consumer.get_client_id,
    )
    await runner.sender.send_json(answer)


def _require_text(text_data: str | None) -> str:
    if text_data is None:
        raise InvalidMessage("invalid_message", "a binary frame; send JSON as text")
    return text_data


@contextlib.contextmanager
def _raise_invalid_json() -> Iterator[None]:
    """Raise InvalidMessage for the exceptions of a JSON decoder."""
    try:
        yield
    except (ValueError, RecursionError) as exc:
        raise InvalidMessage("invalid_json", "not valid JSON") from exc


def _find_json_method(consumer: _Limited, content: Any) -> Callable[..., Any]:
    """Return the handle_<type> method that a message names."""
    kind = content.get("type") if isinstance(content, dict) else None
    if not isinstance(kind, str):
        raise InvalidMessage("invalid_message", "not an object with a type")
    name = f"handle_{kind}"
    method: Callable[..., Any] | None = getattr(consumer, name, None)
    if method is None or not name.isidentifier():
        raise InvalidMessage("unknown_type", f"no messages of type {kind[:64]!r}")
    return method
