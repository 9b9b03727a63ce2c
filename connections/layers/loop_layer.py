"""The mailboxes, groups and Redis connections of RedisLayer on one event loop."""

import asyncio
import os
from collections.abc import Sequence
from typing import Any, Protocol

from connections.asgi import Message
from connections.error_log import get_logger
from connections.layers.compat import choose_shard, find_decode_errors
from connections.layers.mailbox import GAP, Mailbox
from connections.layers.shard import Shard

logger = get_logger(__name__)

_DECODE_ERRORS = find_decode_errors()


class Layer(Protocol):
    """The part of RedisLayer that holds its configuration and counter."""

    dropped: int
    expiry: Any
    hosts: Sequence[dict[str, Any]]
    prefix: str
    probe_seconds: float
    timeout_seconds: float

    def get_capacity(self, channel: str) -> Any:
        """Return how many messages may wait in a channel."""

    def serialize(self, message: Message) -> bytes:
        """Return a message as bytes."""

    def deserialize(self, payload: bytes) -> Message:
        """Return the message that the bytes stand for."""


class LoopLayer:
    """
    RedisLayer on one event loop.

    Groups are called here by their names in Redis.
    """

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._mailboxes: dict[str, Mailbox] = {}
        self._members: dict[str, set[str]] = {}
        self._groups_of: dict[str, set[str]] = {}
        # Channels that only this process reads.
        self._own: set[str] = set()
        self._shards = [Shard(host, layer, self) for host in layer.hosts]

    async def new_channel(self, prefix: str) -> str:
        """Return the name of a new channel of this process, subscribed to it."""
        channel = f"{self._layer.prefix}{prefix}{os.urandom(16).hex()}"
        self._own.add(channel)
        self._open(channel)
        try:
            await self._get_shard(channel).subscribe(channel)
        except asyncio.CancelledError:
            self.forget_channel(channel)
            raise
        return channel

    async def send(self, channel: str, payload: bytes) -> None:
        """
        Send a message to a channel.

        A channel of this process that is not subscribed (yet, or while Redis is
        away) gets the message without Redis. A subscribed one gets it from
        Redis, in order with the messages of other nodes.
        """
        if channel in self._own and not self._get_shard(channel).carries(channel):
            self.deliver(channel, payload)
        else:
            await self.publish(channel, payload)

    async def publish(self, name: str, payload: bytes) -> None:
        """Send a message to a channel or a group through Redis, or drop it."""
        if not await self._get_shard(name).publish(name, payload):
            self._layer.dropped += 1

    async def receive(self, channel: str) -> Message:
        """Return the next message of a channel; cancelled, forget the channel."""
        try:
            mailbox = self._open(channel)
            shard = self._get_shard(channel)
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

    async def join(self, group: str, channel: str) -> None:
        """
        Add a channel of this process to a group.

        Raises:
            RuntimeError: the channel is of another process.
        """
        if channel not in self._mailboxes:
            raise RuntimeError(
                f"group_add() of {channel!r}, which is no channel of this process"
            )
        self._members.setdefault(group, set()).add(channel)
        self._groups_of.setdefault(channel, set()).add(group)
        await self._get_shard(group).subscribe(group)

    async def leave(self, group: str, channel: str) -> None:
        """Take a channel out of a group, if it is in it."""
        if self._remove_member(group, channel):
            await self._get_shard(group).unsubscribe(group)

    def expect(self, channel: str) -> asyncio.Future[None]:
        """Return a future that is done once a message waits in a channel."""
        return self._open(channel).expect()

    def forget_channel(self, channel: str) -> None:
        """Take a channel out of all groups and unsubscribe from it, soon."""
        self._own.discard(channel)
        mailbox = self._mailboxes.pop(channel, None)
        if mailbox is None:
            return
        mailbox.close()
        self._get_shard(channel).unsubscribe_soon(channel)
        for group in list(self._groups_of.get(channel, ())):
            if self._remove_member(group, channel):
                self._get_shard(group).unsubscribe_soon(group)

    async def flush(self) -> None:
        """Forget channels and groups, and close the connections."""
        for mailbox in self._mailboxes.values():
            mailbox.close()
        self._mailboxes.clear()
        self._members.clear()
        self._groups_of.clear()
        self._own.clear()
        for shard in self._shards:
            await shard.flush()

    # What a shard calls

    def is_received(self, name: str) -> bool:
        """Return whether a channel, or a member of a group, is read here."""
        return name in self._mailboxes or name in self._members

    def deliver(self, name: str, payload: bytes) -> None:
        """Put a message into the mailboxes of a channel or group, decoded once."""
        members = self._members.get(name)
        channels = list(members) if members else [name]
        loop = asyncio.get_running_loop()
        now = loop.time()
        try:
            message = self._layer.deserialize(payload)
            if not isinstance(message, dict):
                raise TypeError(f"a message is a dict, not {type(message).__name__}")
        except _DECODE_ERRORS as exc:
            # Another program may write to the same names, or this node lacks a key.
            logger.error(
                "A message of the channel layer cannot be read: %s",
                type(exc).__name__,
                exc_info=exc,
                extra={"event": "layer_foreign"},
            )
            message = {"type": GAP}
        for channel in channels:
            mailbox = self._mailboxes.get(channel)
            if mailbox is None:
                continue
            if message.get("type") == GAP:
                mailbox.put_gap(_read_missed(message), loop)
            elif not mailbox.put(message, now, loop):
                self._layer.dropped += 1
                mailbox.put_gap(1, loop)

    def on_return(self, shard: Shard) -> None:
        """Put a gap into every mailbox that the shard serves."""
        reached = {channel for channel in self._mailboxes if shard.has(channel)}
        for group, members in self._members.items():
            if shard.has(group):
                reached |= members
        loop = asyncio.get_running_loop()
        for channel in reached & self._mailboxes.keys():
            self._mailboxes[channel].put_gap(None, loop)

    def _get_shard(self, name: str) -> Shard:
        return self._shards[choose_shard(name, len(self._shards))]

    def _open(self, channel: str) -> Mailbox:
        mailbox = self._mailboxes.get(channel)
        if mailbox is None:
            layer = self._layer
            mailbox = Mailbox(layer.get_capacity(channel), layer.expiry)
            self._mailboxes[channel] = mailbox
        return mailbox

    def _remove_member(self, group: str, channel: str) -> bool:
        """Take a channel out of a group; return whether that left it empty."""
        groups = self._groups_of.get(channel, set())
        if group not in groups:
            return False
        groups.remove(group)
        if not groups:
            del self._groups_of[channel]
        members = self._members[group]
        members.remove(channel)
        if members:
            return False
        del self._members[group]
        return True


def _read_missed(gap: Message) -> int | None:
    """Return the number in a gap; None if it is unknown, or no program of ours."""
    missed = gap.get("missed")
    return missed if type(missed) is int and missed > 0 else None
