"""The channel layer of several nodes. Imported only where it is configured."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from channels.layers import BaseChannelLayer

from connections.asgi import Message
from connections.layers.compat import (
    call_before_close,
    decode_hosts,
    make_serializer,
)
from connections.layers.local import SPECIFIC_PREFIX, require_message
from connections.layers.loop_layer import LoopLayer
from connections.redis.clients import make_layer_host
from connections.redis.encryption import get_encryption_keys


class RedisLayer(BaseChannelLayer):
    """
    A channel layer over Redis pub/sub that is bounded and reports its losses.

    Where a message may have been lost (a full mailbox, a subscription that
    broke, a Redis that was away when it was sent) the receiver finds one of
    type channel.gap instead. Nothing raises for a Redis that is away: sends are
    dropped and counted, memberships are kept and subscribed to again on its
    return. A message is delivered once, or twice where a connection broke just
    as Redis took it.

    `hosts` is as in channels-redis, redis+sentinel:// URLs included; with
    several, channels and groups are spread over all of them. Keys and bytes in
    Redis are those of channels_redis.pubsub.RedisPubSubChannelLayer.

    `symmetric_encryption_keys` are those of channels-redis: the first encrypts, each
    decrypts. By default they are settings.REDIS_ENCRYPTION_KEYS.
    """

    extensions = ("groups", "flush")

    def __init__(
        self,
        hosts: Sequence[Any] = ("redis://localhost:6379",),
        *,
        prefix: str = "asgi",
        expiry: float = 60,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
        timeout_seconds: float = 1,
        probe_seconds: float = 5,
        symmetric_encryption_keys: Sequence[str] | None = None,
        serializer_format: str = "msgpack",
    ) -> None:
        super().__init__(expiry=expiry, capacity=capacity)
        # BaseChannelLayer leaves compiling to its subclasses.
        self.channel_capacity = self.compile_capacities(channel_capacity or {})
        self.prefix = prefix
        self.timeout_seconds = timeout_seconds
        self.probe_seconds = probe_seconds
        self.dropped = 0
        """Messages that were sent and not delivered here, since the start."""
        self.hosts = decode_hosts(
            [make_layer_host(one) if isinstance(one, str) else one for one in hosts]
        )
        keys = symmetric_encryption_keys
        if keys is None:
            keys = get_encryption_keys()
        serializer = make_serializer(serializer_format, keys)
        self.serialize = serializer.serialize
        self.deserialize = serializer.deserialize
        self._by_loop: dict[asyncio.AbstractEventLoop, LoopLayer] = {}

    # As Channels documents it

    async def new_channel(self, prefix: str = SPECIFIC_PREFIX) -> str:
        """
        Return the name of a new channel of this process, subscribed to it.

        While Redis is away the subscription follows on its return.
        """
        return await self._on_this_loop().new_channel(prefix)

    async def send(self, channel: str, message: Message) -> None:
        """
        Send a message to a channel, on whichever node its consumer is.

        Raises:
            TypeError: the name is not valid, or the message not a dict.
        """
        self.require_valid_channel_name(channel)
        require_message(message)
        await self._on_this_loop().send(channel, self.serialize(message))

    async def receive(self, channel: str) -> Message:
        """
        Return the next message of a channel, waiting for one if need be.

        The first call subscribes to a channel that new_channel() did not name. A
        reader that is cancelled is taken to be gone for good, as in channels-redis:
        its channel is forgotten.
        """
        return await self._on_this_loop().receive(channel)

    async def group_add(self, group: str, channel: str) -> None:
        """
        Add a channel of this process to a group.

        Raises:
            RuntimeError: the channel is of another process.
            TypeError: the group's name is not valid.
        """
        self.require_valid_group_name(group)
        await self._on_this_loop().join(self._name_group(group), channel)

    async def group_discard(self, group: str, channel: str) -> None:
        """Take a channel out of a group; one that is not in it is no error."""
        await self._on_this_loop().leave(self._name_group(group), channel)

    async def group_send(self, group: str, message: Message) -> None:
        """
        Send a message to every member of a group, on all nodes.

        Raises:
            TypeError: the name is not valid, or the message not a dict.
        """
        self.require_valid_group_name(group)
        require_message(message)
        payload = self.serialize(message)
        await self._on_this_loop().publish(self._name_group(group), payload)

    async def flush(self) -> None:
        """Forget channels and groups, and close the connections."""
        await self._on_this_loop().flush()

    # Beyond it

    def expect(self, channel: str) -> asyncio.Future[None]:
        """Return a future that is done once a message waits in a channel."""
        return self._on_this_loop().expect(channel)

    def forget_channel(self, channel: str) -> None:
        """Take a channel out of all groups and unsubscribe from it, soon."""
        self._on_this_loop().forget_channel(channel)

    def _name_group(self, group: str) -> str:
        """Return the name of a group in Redis, which is that of channels-redis."""
        return f"{self.prefix}__group__{group}"

    def _on_this_loop(self) -> LoopLayer:
        loop = asyncio.get_running_loop()
        layer = self._by_loop.get(loop)
        if layer is None:
            layer = self._by_loop[loop] = LoopLayer(self)
            call_before_close(loop, partial(self._leave_loop, loop))
        return layer

    async def _leave_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        await self._by_loop.pop(loop).flush()
