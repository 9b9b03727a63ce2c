"""The channel layer of several nodes. Imported only where it is configured."""

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from channels.layers import BaseChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer, RedisPubSubLoopLayer
from channels_redis.utils import decode_hosts

from connections.asgi import Message
from connections.layers.local import SPECIFIC_PREFIX, require_message
from connections.layers.mailbox import GAP, Mailbox
from connections.layers.shard import Shard
from connections.redis.clients import make_layer_host

logger = logging.getLogger(__name__)


class RedisLayer(RedisPubSubChannelLayer):
    """
    channels-redis' pub/sub layer, bounded, and honest about what it lost.

    Where a message may have been lost (a full mailbox, a subscription that
    broke, a Redis that was away when it was sent) the receiver finds one of
    type channel.gap instead. Nothing raises for a Redis that is away: sends are
    dropped and counted, memberships are kept and subscribed to again on its
    return. A message is delivered once, or twice where a connection broke just
    as Redis took it.

    `hosts` is as in channels-redis, redis+sentinel:// URLs included; with
    several, channels and groups are spread over all of them.
    """

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
        super().__init__(
            symmetric_encryption_keys=symmetric_encryption_keys,
            serializer_format=serializer_format,
        )
        self.names = BaseChannelLayer(expiry=expiry, capacity=capacity)
        self.names.channel_capacity = self.names.compile_capacities(
            channel_capacity or {}
        )
        self.prefix = prefix
        self.timeout_seconds = timeout_seconds
        self.probe_seconds = probe_seconds
        self.dropped = 0
        """Messages that were sent and not delivered here, since the start."""
        self.hosts: list[dict[str, Any]] = decode_hosts(
            [make_layer_host(one) if isinstance(one, str) else one for one in hosts]
        )

    def _get_layer(self) -> "_LoopLayer":
        loop = asyncio.get_running_loop()
        if loop not in self._layers:
            # What channels-redis makes for this loop is replaced by ours; its
            # own has connected to nothing yet.
            super()._get_layer()
            self._layers[loop] = _LoopLayer(self)
        layer: _LoopLayer = self._layers[loop]
        return layer


class _LoopLayer(RedisPubSubLoopLayer):
    """The layer on one event loop."""

    channel_layer: RedisLayer

    def __init__(self, outer: RedisLayer) -> None:
        # The base class makes a connection per host, which ours replace.
        super().__init__(prefix=outer.prefix, channel_layer=outer)
        self.channels: dict[str, Mailbox] = {}
        self.groups: dict[str, set[str]] = {}
        self._groups_of: dict[str, set[str]] = {}
        # Channels that only this process reads.
        self._own: set[str] = set()
        self._shards = [Shard(host, self) for host in outer.hosts]

    # As Channels documents it

    async def new_channel(self, prefix: str = SPECIFIC_PREFIX) -> str:
        """Return the name of a channel of this process; asks Redis for nothing."""
        channel = f"{self.prefix}{prefix}{os.urandom(16).hex()}"
        self._own.add(channel)
        self._open(channel)
        return channel

    async def send(self, channel: str, message: Message) -> None:
        """
        Send a message to a channel, wherever its consumer is.

        One of this process that is not subscribed (yet, or while Redis is away)
        gets it without Redis; else it keeps its place among what others send.

        Raises:
            TypeError: the name is not valid, or the message not a dict.
        """
        outer = self.channel_layer
        outer.names.require_valid_channel_name(channel)
        require_message(message)
        payload = outer.serialize(message)
        shard: Shard = self._get_shard(channel)
        if channel in self._own and not shard.carries(channel):
            self.deliver(channel, payload)
        elif not await shard.publish(channel, payload):
            outer.dropped += 1

    async def receive(self, channel: str) -> Message:
        """
        Return the next message of a channel, waiting for one if need be.

        The first call subscribes to it. A reader that is cancelled is taken to
        be gone for good, as in channels-redis: its channel is forgotten.
        """
        try:
            mailbox = self._open(channel)
            shard: Shard = self._get_shard(channel)
            if not shard.has(channel):
                await shard.subscribe(channel)
            loop = asyncio.get_running_loop()
            while True:
                message = mailbox.take(loop.time())
                if message is not None:
                    return message
                await mailbox.wait()
        except asyncio.CancelledError:
            self.forget_channel(channel)
            raise

    async def group_add(self, group: str, channel: str) -> None:
        """
        Add a channel of this process to a group.

        Raises:
            RuntimeError: the channel is of another process.
            TypeError: the group's name is not valid.
        """
        self.channel_layer.names.require_valid_group_name(group)
        if channel not in self.channels:
            raise RuntimeError(
                f"group_add() of {channel!r}, which is no channel of this process"
            )
        name = self._get_group_channel_name(group)
        self.groups.setdefault(name, set()).add(channel)
        self._groups_of.setdefault(channel, set()).add(name)
        await self._get_shard(name).subscribe(name)

    async def group_discard(self, group: str, channel: str) -> None:
        """Take a channel out of a group; one that is not in it is no error."""
        name = self._get_group_channel_name(group)
        if self._leave(name, channel):
            await self._get_shard(name).unsubscribe(name)

    async def group_send(self, group: str, message: Message) -> None:
        """
        Send a message to every member of a group, on all nodes.

        Raises:
            TypeError: the name is not valid, or the message not a dict.
        """
        self.channel_layer.names.require_valid_group_name(group)
        require_message(message)
        name = self._get_group_channel_name(group)
        payload = self.channel_layer.serialize(message)
        if not await self._get_shard(name).publish(name, payload):
            self.channel_layer.dropped += 1

    async def flush(self) -> None:
        """Forget channels and groups, and close the connections."""
        for mailbox in self.channels.values():
            mailbox.close()
        self.channels.clear()
        self.groups.clear()
        self._groups_of.clear()
        self._own.clear()
        for shard in self._shards:
            await shard.flush()

    # Beyond it

    def forget_channel(self, channel: str) -> None:
        """Take a channel out of all groups and unsubscribe from it, soon."""
        self._own.discard(channel)
        mailbox = self.channels.pop(channel, None)
        if mailbox is None:
            return
        mailbox.close()
        self._get_shard(channel).unsubscribe_soon(channel)
        for name in list(self._groups_of.get(channel, ())):
            if self._leave(name, channel):
                self._get_shard(name).unsubscribe_soon(name)

    def deliver(self, name: str, payload: bytes) -> None:
        """Put what arrived into the mailboxes it is for, decoded once."""
        members = self.groups.get(name)
        channels = list(members) if members else [name]
        loop = asyncio.get_running_loop()
        now = loop.time()
        try:
            message = self.channel_layer.deserialize(payload)
            is_gap = message.get("type") == GAP
        except Exception:
            # Whatever another program wrote there, the others go on.
            logger.exception(
                "A message cannot be read", extra={"event": "layer_foreign"}
            )
            return
        for channel in channels:
            mailbox = self.channels.get(channel)
            if mailbox is None:
                continue
            if is_gap:
                mailbox.put_gap(message.get("missed"), loop)
            elif not mailbox.put(message, now, loop):
                self.channel_layer.dropped += 1
                mailbox.put_gap(1, loop)

    def on_return(self, shard: Shard) -> None:
        """Tell all who subscribed there that messages may be missing."""
        reached = {channel for channel in self.channels if shard.has(channel)}
        for name, members in self.groups.items():
            if shard.has(name):
                reached |= members
        loop = asyncio.get_running_loop()
        for channel in reached & self.channels.keys():
            self.channels[channel].put_gap(None, loop)

    def _open(self, channel: str) -> Mailbox:
        mailbox = self.channels.get(channel)
        if mailbox is None:
            names = self.channel_layer.names
            mailbox = Mailbox(names.get_capacity(channel), names.expiry)
            self.channels[channel] = mailbox
        return mailbox

    def _leave(self, name: str, channel: str) -> bool:
        """Take a channel out of a group; tell whether the group is empty now."""
        groups = self._groups_of.get(channel, set())
        if name not in groups:
            return False
        groups.remove(name)
        if not groups:
            del self._groups_of[channel]
        members = self.groups[name]
        members.remove(channel)
        if members:
            return False
        del self.groups[name]
        return True
