"""A channel layer for a single node, in memory."""

import asyncio
import logging
import os
import sys
import time
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from channels.exceptions import ChannelFull
from channels.layers import BaseChannelLayer

from connections.asgi import Message
from connections.layers.broadcast import BROADCAST, is_unknown_to_channels
from connections.layers.deliveries import Deliveries
from connections.layers.mailbox import HandOver, Mailbox
from connections.telemetry.carrier import TRACE_API, TRACEPARENT
from connections.telemetry.current import send_in_span
from connections.units import Clock

logger = logging.getLogger(__name__)

SPECIFIC_PREFIX = "specific."


class LocalLayer(BaseChannelLayer):
    """
    A channel layer in this process's memory, by Channels' specification.

    A group send takes one step per member and copies the message once: members
    share its inner values and must treat them as read-only. send() raises
    ChannelFull. A group send drops the message for full members, which get a
    message of type channel.gap instead, which receive_any() returns. Messages unread
    for `expiry` seconds become such a gap too; the membership stays.

    Other threads and event loops may use it, as async_to_sync() does.
    """

    extensions = ("groups", "flush")

    is_served: ClassVar[bool] = False
    """True in a process with a node: its consumers may join at any time."""

    _has_warned: ClassVar[bool] = False

    def __init__(
        self,
        *,
        expiry: float = 60,
        group_expiry: float = 86_400,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        super().__init__(expiry=expiry, capacity=capacity)
        # BaseChannelLayer leaves compiling to its subclasses; its own forgets to.
        self.channel_capacity = self.compile_capacities(channel_capacity or {})
        self.group_expiry = group_expiry
        self.dropped = 0
        """How many messages were dropped since the start."""
        self._clock = clock
        self._mailboxes: dict[str, Mailbox] = {}
        # The members of each group with the time of joining, earliest first.
        self._groups: dict[str, dict[str, float]] = {}
        self._groups_of: dict[str, set[str]] = {}
        # async_to_sync() makes event loops that end: no value refers to its loop.
        self._deliveries: WeakKeyDictionary[asyncio.AbstractEventLoop, Deliveries] = (
            WeakKeyDictionary()
        )
        self._swept_at = clock()

    # As Channels documents it

    async def new_channel(self, prefix: str = SPECIFIC_PREFIX) -> str:
        """Return the name of a new channel."""
        self._sweep()
        return f"{prefix}.local!{os.urandom(12).hex()}"

    async def send(self, channel: str, message: Message) -> None:
        """
        Send a message to a channel.

        Raises:
            ChannelFull: `capacity` messages wait there.
            TypeError: the name is not valid, or the message not a dict.
        """
        self.require_valid_channel_name(channel)
        require_message(message)
        if channel not in self._mailboxes:
            self._warn_if_unserved(f"channel {channel}")
        if TRACE_API in sys.modules:
            message = send_in_span("send", channel, message)
        loop = asyncio.get_running_loop()
        if not self._open(channel).put(deepcopy(message), self._clock(), loop):
            self.dropped += 1
            raise ChannelFull(channel)

    async def receive(self, channel: str) -> Message:
        """
        Wait for the next message of a channel and return it.

        Gaps and broadcasts are left out: they would end a consumer of Channels.
        """
        while is_unknown_to_channels(message := await self.receive_any(channel)):
            continue
        return message

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group; joining again renews its membership."""
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        members = self._groups.setdefault(group, {})
        members.pop(channel, None)
        members[channel] = self._clock()
        self._groups_of.setdefault(channel, set()).add(group)

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group, if it is a member."""
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        self._leave(group, channel)

    async def group_send(self, group: str, message: Message) -> None:
        """Send a message to every member of a group."""
        self.require_valid_group_name(group)
        require_message(message)
        members = self._groups.get(group)
        if not members:
            self._warn_if_unserved(f"group {group}")
            return
        self._expire(group, members, self._clock())
        if TRACE_API in sys.modules:
            message = send_in_span("group_send", group, message)
        exclude = message.get("exclude") if message.get("type") == BROADCAST else None
        mailboxes = self._mailboxes
        # A copy: another thread may join meanwhile.
        chosen = [
            mailboxes.get(channel) or self._open(channel)
            for channel in list(members)
            if channel != exclude
        ]
        done = self._get_deliveries().add(deepcopy(message), chosen)
        if done is not None:
            await done

    async def flush(self) -> None:
        """Forget all messages and groups."""
        mailboxes, self._mailboxes = self._mailboxes, {}
        self._groups.clear()
        self._groups_of.clear()
        for mailbox in mailboxes.values():
            mailbox.close()

    async def close(self) -> None:
        """Forget everything."""
        await self.flush()

    # Beyond it

    async def receive_any(self, channel: str) -> Message:
        """Return the next message of a channel, also a gap or a broadcast."""
        self.require_valid_channel_name(channel)
        while True:
            mailbox = self._open(channel)
            message = mailbox.take(self._clock())
            if message is not None:
                message.pop(TRACEPARENT, None)
                return message
            await mailbox.wait()

    def open_mailbox(self, channel: str) -> Mailbox:
        """Return the mailbox of a channel, for its only reader."""
        return self._open(channel)

    def forget_channel(self, channel: str) -> None:
        """Remove a channel from all its groups, and drop its messages."""
        for group in list(self._groups_of.get(channel, ())):
            self._leave(group, channel)
        mailbox = self._mailboxes.pop(channel, None)
        if mailbox is not None:
            mailbox.close()

    def _warn_if_unserved(self, target: str) -> None:
        """Warn once in a process whose messages reach no consumer."""
        if self.is_served or self._groups or LocalLayer._has_warned:
            return
        LocalLayer._has_warned = True
        logger.warning(
            "A message for the %s reaches nobody: this process serves no consumer, and "
            "LocalLayer reaches its own process alone. To send from commands, shells "
            "and workers, use connections.layers.redis.RedisLayer or "
            "connections.layers.postgres.PostgresLayer.",
            target,
            extra={"event": "layer_unserved"},
        )

    def _open(self, channel: str) -> Mailbox:
        mailbox = self._mailboxes.get(channel)
        if mailbox is None:
            capacity = self.get_capacity(channel)
            mailbox = Mailbox(capacity, self.expiry, self._clock)
            mailbox = self._mailboxes.setdefault(channel, mailbox)
        return mailbox

    def _get_deliveries(self) -> Deliveries:
        """Return the deliveries of the running event loop."""
        loop = asyncio.get_running_loop()
        deliveries = self._deliveries.get(loop)
        if deliveries is None:
            deliveries = self._deliveries[loop] = Deliveries(self._put)
        return deliveries

    def _put(
        self,
        mailbox: Mailbox,
        message: Message,
        loop: asyncio.AbstractEventLoop,
        handed_over: list[HandOver],
    ) -> None:
        if not mailbox.put(message, self._clock(), loop, handed_over):
            self.dropped += 1
            mailbox.put_gap(1, loop)

    def _leave(self, group: str, channel: str) -> None:
        members = self._groups.get(group)
        if members is None or members.pop(channel, None) is None:
            return
        if not members:
            self._groups.pop(group, None)
        groups = self._groups_of.get(channel, set())
        groups.discard(group)
        if not groups:
            self._groups_of.pop(channel, None)

    def _expire(self, group: str, members: dict[str, float], now: float) -> None:
        """End memberships that are too old; the oldest come first."""
        latest = now - self.group_expiry
        while members:
            channel = next(iter(members))
            if members[channel] > latest:
                return
            self._leave(group, channel)

    def _sweep(self) -> None:
        """Once per expiry, forget the mailboxes of ended consumers."""
        now = self._clock()
        if now - self._swept_at < self.expiry:
            return
        self._swept_at = now
        for channel, mailbox in list(self._mailboxes.items()):
            if mailbox.is_forgotten(now) and channel not in self._groups_of:
                del self._mailboxes[channel]
        for group, members in list(self._groups.items()):
            self._expire(group, members, now)


def require_message(message: object) -> None:
    """
    Check that a message is a dict.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(message, dict):
        raise TypeError(f"a message is a dict, not {type(message).__name__}")
