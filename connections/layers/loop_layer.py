"""The mailboxes, groups and connections of a shared layer on one event loop."""

import asyncio
import os
from collections.abc import Sequence
from typing import Any, Protocol

from connections.asgi import Message
from connections.error_log import get_logger
from connections.layers.broadcast import BROADCAST
from connections.layers.deliveries import Deliveries
from connections.layers.mailbox import GAP, HandOver, Mailbox
from connections.layers.transport import Receiver, Transport
from connections.units import Clock

logger = get_logger(__name__)


class Layer(Protocol):
    """The part of a shared layer that holds its configuration and counter."""

    decode_errors: tuple[type[Exception], ...]
    dropped: int
    clock: Clock
    expiry: Any
    group_expiry: float | None
    prefix: str

    def make_transports(self, receiver: Receiver) -> Sequence[Transport]:
        """Return the connections of one event loop."""

    def choose_transport(self, name: str) -> int:
        """Return which of the connections carries a channel or group."""

    def get_capacity(self, channel: str) -> Any:
        """Return how many messages may wait in a channel."""

    def serialize(self, message: Message) -> bytes:
        """Return a message as bytes."""

    def deserialize(self, payload: bytes) -> Message:
        """Return the message that the bytes stand for."""


class LoopLayer:
    """
    A shared layer on one event loop.

    Groups are called here by their names between processes.
    """

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._clock = layer.clock
        self._mailboxes: dict[str, Mailbox] = {}
        # The members of each group with the time of joining, earliest first.
        self._members: dict[str, dict[str, float]] = {}
        self._groups_of: dict[str, set[str]] = {}
        # Channels that only this process reads.
        self._own: set[str] = set()
        self._has_warned = False
        self._deliveries = Deliveries(self._put)
        self._transports = layer.make_transports(self)

    async def new_channel(self, prefix: str) -> str:
        """Return the name of a new channel of this process, subscribed to it."""
        channel = f"{self._layer.prefix}{prefix}{os.urandom(16).hex()}"
        self._own.add(channel)
        self._open(channel)
        try:
            await self._get_transport(channel).subscribe(channel)
        except asyncio.CancelledError:
            self.forget_channel(channel)
            raise
        return channel

    async def send(self, channel: str, payload: bytes) -> None:
        """
        Send a message to a channel.

        A channel of this process that is not subscribed (yet, or while the
        server is away) gets the message directly. A subscribed one gets it from
        the server, in order with the messages of other nodes.
        """
        if channel in self._own and not self._get_transport(channel).carries(channel):
            self.deliver(channel, payload)
        else:
            await self.publish(channel, payload)

    async def publish(self, name: str, payload: bytes) -> None:
        """Send a message to a channel or a group through the server, or drop it."""
        if not await self._get_transport(name).publish(name, payload):
            self._layer.dropped += 1

    async def receive(self, channel: str) -> Message:
        """Return the next message of a channel; cancelled, forget the channel."""
        if channel not in self._own:
            self._warn_of_named(channel)
        try:
            transport = self._get_transport(channel)
            while True:
                # flush() closes the mailbox, and the subscription with it.
                mailbox = self._open(channel)
                if not transport.has(channel):
                    await transport.subscribe(channel)
                message = mailbox.take(self._clock())
                if message is not None:
                    return message
                await mailbox.wait()
        except asyncio.CancelledError:
            self.forget_channel(channel)
            raise

    async def join(self, group: str, channel: str) -> None:
        """
        Add a channel of this process to a group; joining again renews it.

        Raises:
            RuntimeError: the channel is of another process.
        """
        if channel not in self._mailboxes:
            raise RuntimeError(
                f"group_add() of {channel!r}, which is no channel of this process"
            )
        members = self._members.setdefault(group, {})
        members.pop(channel, None)
        members[channel] = self._clock()
        self._groups_of.setdefault(channel, set()).add(group)
        await self._get_transport(group).subscribe(group)

    async def leave(self, group: str, channel: str) -> None:
        """Take a channel out of a group, if it is in it."""
        if self._remove_member(group, channel):
            await self._get_transport(group).unsubscribe(group)

    def open_mailbox(self, channel: str) -> Mailbox:
        """Return the mailbox of a channel of this process, for its only reader."""
        return self._open(channel)

    def is_full(self, channel: str) -> bool:
        """Return whether a channel of this process has no room for a message."""
        mailbox = self._mailboxes.get(channel)
        return mailbox is not None and mailbox.is_full(self._clock())

    def forget_channel(self, channel: str) -> None:
        """Take a channel out of all groups and unsubscribe from it, soon."""
        self._own.discard(channel)
        mailbox = self._mailboxes.pop(channel, None)
        if mailbox is None:
            return
        mailbox.close()
        self._get_transport(channel).unsubscribe_soon(channel)
        for group in list(self._groups_of.get(channel, ())):
            if self._remove_member(group, channel):
                self._get_transport(group).unsubscribe_soon(group)

    async def flush(self) -> None:
        """Forget channels and groups, and close the connections."""
        mailboxes = list(self._mailboxes.values())
        self._mailboxes.clear()
        self._members.clear()
        self._groups_of.clear()
        self._own.clear()
        for transport in self._transports:
            await transport.flush()
        # Last: a reader subscribes again.
        for mailbox in mailboxes:
            mailbox.close()

    # What a transport calls

    def is_received(self, name: str) -> bool:
        """Return whether a channel, or a member of a group, is read here."""
        return name in self._mailboxes or name in self._members

    def deliver(self, name: str, payload: bytes) -> None:
        """Put a message into the mailboxes of a channel or group, decoded once."""
        try:
            message = self._layer.deserialize(payload)
            if not isinstance(message, dict):
                raise TypeError(f"a message is a dict, not {type(message).__name__}")
        except self._layer.decode_errors as exc:
            # Another program may write to the same names, or this node lacks a key.
            logger.error(
                "A message of the channel layer cannot be read: %s",
                type(exc).__name__,
                exc_info=exc,
                extra={"event": "layer_foreign"},
            )
            message = {"type": GAP}
        kind = message.get("type")
        exclude = message.get("exclude") if kind == BROADCAST else None
        self._expire(name)
        members = self._members.get(name) or (name,)
        mailboxes = (self._mailboxes.get(one) for one in members if one != exclude)
        chosen = [mailbox for mailbox in mailboxes if mailbox is not None]
        if not self._deliveries.is_full:
            self._deliveries.add(message, chosen)
            return
        # The sender is not here to wait.
        loop = asyncio.get_running_loop()
        for mailbox in chosen:
            self._layer.dropped += 1
            mailbox.put_gap(1, loop)

    def _put(
        self,
        mailbox: Mailbox,
        message: Message,
        loop: asyncio.AbstractEventLoop,
        handed_over: list[HandOver],
    ) -> None:
        if message.get("type") == GAP:
            mailbox.put_gap(_read_missed(message), loop)
        elif not mailbox.put(message, self._clock(), loop, handed_over):
            self._layer.dropped += 1
            mailbox.put_gap(1, loop)

    def on_return(self, transport: Transport) -> None:
        """Put a gap into every mailbox that the transport serves."""
        reached = {channel for channel in self._mailboxes if transport.has(channel)}
        for group, members in self._members.items():
            if transport.has(group):
                reached.update(members)
        loop = asyncio.get_running_loop()
        for channel in reached & self._mailboxes.keys():
            self._mailboxes[channel].put_gap(None, loop)

    def _warn_of_named(self, channel: str) -> None:
        """Warn once that a channel is no queue between processes."""
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "The channel %.100s is no queue: each process that reads it gets every "
                "message, and one that nobody reads is lost. For work that one process "
                "does, use a queue of tasks",
                channel,
                extra={"event": "layer_named_channel"},
            )

    def _get_transport(self, name: str) -> Transport:
        return self._transports[self._layer.choose_transport(name)]

    def _open(self, channel: str) -> Mailbox:
        mailbox = self._mailboxes.get(channel)
        if mailbox is None:
            layer = self._layer
            capacity = layer.get_capacity(channel)
            mailbox = Mailbox(capacity, layer.expiry, self._clock)
            self._mailboxes[channel] = mailbox
        return mailbox

    def _expire(self, group: str) -> None:
        """End memberships of a group that are too old; the oldest come first."""
        if self._layer.group_expiry is None:
            return
        latest = self._clock() - self._layer.group_expiry
        for channel, joined_at in list(self._members.get(group, {}).items()):
            if joined_at > latest:
                return
            if self._remove_member(group, channel):
                self._get_transport(group).unsubscribe_soon(group)

    def _remove_member(self, group: str, channel: str) -> bool:
        """Take a channel out of a group; return whether that left it empty."""
        groups = self._groups_of.get(channel, set())
        if group not in groups:
            return False
        groups.remove(group)
        if not groups:
            del self._groups_of[channel]
        members = self._members[group]
        del members[channel]
        if members:
            return False
        del self._members[group]
        return True


def _read_missed(gap: Message) -> int | None:
    """Return the number in a gap; None if it is unknown, or no program of ours."""
    missed = gap.get("missed")
    return missed if type(missed) is int and missed > 0 else None
