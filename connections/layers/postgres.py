"""The channel layer of several nodes that share PostgreSQL."""

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from channels.exceptions import ChannelFull

from connections.asgi import Message
from connections.layers.json_codec import JsonCodec
from connections.layers.notify_transport import NotifyTransport
from connections.layers.shared import SharedLayer, require_positive
from connections.layers.transport import Receiver, Transport
from connections.pool.choice import get_listen_url
from connections.redis.encryption import get_encryption_keys
from connections.storage.database import Database
from connections.units import Clock

_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,40}")
"""NAMEDATALEN of PostgreSQL bounds the name of a channel to 63 bytes."""


class PostgresLayer(SharedLayer):
    """
    A channel layer over LISTEN and NOTIFY that is bounded and reports its losses.

    Where a message may have been lost (a full mailbox, a connection that broke, a
    PostgreSQL that was away when it was sent) the receiver finds one of type
    channel.gap instead. Nothing raises for a PostgreSQL that is away: sends are
    dropped and counted. A message is delivered once, or twice where a connection
    broke just as PostgreSQL took it.

    The database is that of the tables of `connections`. Messages are sent at once,
    in no transaction of the caller. Each process listens on a connection of its own:
    `listen_url`, by default settings.DATABASE_LISTEN_URL, names it. Where a pooler
    is behind it, the process polls every poll_seconds.

    A channel with a name of its own, as of `runworker`, is no queue: each process that
    reads it gets every message, and one that nobody reads is lost.

    A membership ends with its process, or group_expiry seconds after its renewal.

    Messages are JSON, and may hold bytes. `symmetric_encryption_keys` encrypt them:
    the first encrypts, each decrypts. By default they are
    settings.REDIS_ENCRYPTION_KEYS.
    """

    decode_errors = (ValueError, TypeError, RecursionError)

    def __init__(
        self,
        *,
        prefix: str = "asgi",
        expiry: float = 60,
        group_expiry: float | None = None,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
        timeout_seconds: float = 1,
        poll_seconds: float = 0.2,
        listen_url: str | None = None,
        symmetric_encryption_keys: Sequence[str] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """
        Take the configuration.

        Raises:
            ValueError: an option is out of its range, or a key cannot be used.
        """
        if not _PREFIX.fullmatch(prefix):
            raise ValueError(
                f"prefix is {prefix!r}, not 1 to 40 of the characters A-Z a-z 0-9 . _ -"
            )
        for name, value in (
            ("expiry", expiry),
            ("capacity", capacity),
            ("timeout_seconds", timeout_seconds),
            ("poll_seconds", poll_seconds),
        ):
            require_positive(name, value)
        super().__init__(
            prefix=prefix,
            expiry=expiry,
            group_expiry=group_expiry,
            clock=clock,
            capacity=capacity,
            channel_capacity=channel_capacity,
        )
        self.timeout_seconds = timeout_seconds
        self.poll_seconds = poll_seconds
        self.listen_url = get_listen_url() if listen_url is None else listen_url
        keys = symmetric_encryption_keys
        codec = JsonCodec(get_encryption_keys() if keys is None else keys)
        self.serialize = codec.serialize
        self.deserialize = codec.deserialize

    async def send(self, channel: str, message: Message) -> None:
        """
        Send a message to a channel, on whichever node its consumer is.

        Raises:
            ChannelFull: the channel is of this process, and has no room.
            TypeError: the name is not valid, or the message not a dict.
        """
        if self.is_full(channel):
            raise ChannelFull
        await super().send(channel, message)

    def make_transports(self, receiver: Receiver) -> Sequence[Transport]:
        return [NotifyTransport(self, receiver)]

    def choose_transport(self, name: str) -> int:
        return 0

    def make_database(self) -> Database:
        """Return the threads in which one event loop uses the database."""
        return Database()
