"""A channel layer whose messages reach the consumers of all processes."""

import asyncio
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from channels.layers import BaseChannelLayer

from connections.asgi import Message
from connections.layers.broadcast import is_unknown_to_channels
from connections.layers.local import SPECIFIC_PREFIX, require_message
from connections.layers.loop_end import call_before_close
from connections.layers.loop_layer import LoopLayer
from connections.layers.mailbox import Mailbox
from connections.layers.transport import Receiver, Transport
from connections.telemetry.carrier import TRACE_API, TRACEPARENT
from connections.telemetry.current import send_in_span
from connections.units import Clock


class SharedLayer(BaseChannelLayer, ABC):
    """
    The mailboxes and memberships of this process, for the backends.

    A subclass sets serialize() and deserialize(), and names what the latter raises.
    """

    extensions = ("groups", "flush")
    decode_errors: tuple[type[Exception], ...]
    """What deserialize() raises for bytes that stand for no message."""

    def __init__(
        self,
        *,
        prefix: str,
        expiry: float,
        capacity: int,
        channel_capacity: Mapping[Any, int] | None,
        group_expiry: float | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """
        Take the configuration.

        Raises:
            ValueError: group_expiry is out of its range.
        """
        if group_expiry is not None:
            require_positive("group_expiry", group_expiry)
        super().__init__(expiry=expiry, capacity=capacity)
        # BaseChannelLayer leaves compiling to its subclasses.
        self.channel_capacity = self.compile_capacities(channel_capacity or {})
        self.prefix = prefix
        self.group_expiry = group_expiry
        """The seconds after which a membership ends unless renewed; None: never."""
        self.clock = clock
        self.dropped = 0
        """Messages that were sent and not delivered here, since the start."""
        self.serialize: Callable[[Message], bytes]
        self.deserialize: Callable[[bytes], Message]
        self._by_loop: dict[asyncio.AbstractEventLoop, LoopLayer] = {}

    @abstractmethod
    def make_transports(self, receiver: Receiver) -> Sequence[Transport]:
        """Return the connections of one event loop."""

    @abstractmethod
    def choose_transport(self, name: str) -> int:
        """Return which of the connections carries a channel or group."""

    # As Channels documents it

    async def new_channel(self, prefix: str = SPECIFIC_PREFIX) -> str:
        """
        Return the name of a new channel of this process, subscribed to it.

        While the server is away the subscription follows on its return.
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
        if TRACE_API in sys.modules:
            message = send_in_span("send", channel, message)
        await self._on_this_loop().send(channel, self.serialize(message))

    async def receive(self, channel: str) -> Message:
        """
        Return the next message of a channel, waiting for one if need be.

        Gaps and broadcasts are left out: they would end a consumer of Channels. The
        first call subscribes to a channel that new_channel() did not name. A reader
        that is cancelled is taken to be gone for good, as in channels-redis: its
        channel is forgotten.
        """
        while is_unknown_to_channels(message := await self.receive_any(channel)):
            continue
        return message

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
        if TRACE_API in sys.modules:
            message = send_in_span("group_send", group, message)
        payload = self.serialize(message)
        await self._on_this_loop().publish(self._name_group(group), payload)

    async def flush(self) -> None:
        """Forget channels and groups, and close the connections."""
        await self._on_this_loop().flush()

    # Beyond it

    async def receive_any(self, channel: str) -> Message:
        """Return the next message of a channel, also a gap or a broadcast."""
        message = await self._on_this_loop().receive(channel)
        message.pop(TRACEPARENT, None)
        return message

    def open_mailbox(self, channel: str) -> Mailbox:
        """Return the mailbox of a channel of this process, for its only reader."""
        return self._on_this_loop().open_mailbox(channel)

    def is_full(self, channel: str) -> bool:
        """Return whether a channel of this process has no room for a message."""
        return self._on_this_loop().is_full(channel)

    def forget_channel(self, channel: str) -> None:
        """Take a channel out of all groups and unsubscribe from it, soon."""
        self._on_this_loop().forget_channel(channel)

    def _name_group(self, group: str) -> str:
        """Return the name of a group between processes; channels-redis has the same."""
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


def require_positive(name: str, value: object) -> None:
    """
    Check that an option is a number above 0.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {value!r}, not a number")
    if not value > 0:
        raise ValueError(f"{name} is {value!r}, not above 0")
