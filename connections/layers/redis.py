"""The channel layer of several nodes. Imported only where it is configured."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from connections.layers.compat import (
    choose_shard,
    decode_hosts,
    find_decode_errors,
    make_serializer,
)
from connections.layers.shard import Shard
from connections.layers.shared import SharedLayer
from connections.layers.transport import Receiver, Transport
from connections.redis.clients import make_layer_host
from connections.redis.encryption import get_encryption_keys
from connections.units import Clock


class RedisLayer(SharedLayer):
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

    A channel with a name of its own, as of `runworker`, is no queue: each process that
    reads it gets every message, and one that nobody reads is lost.

    A membership ends with its process, or group_expiry seconds after its renewal.

    `symmetric_encryption_keys` are those of channels-redis: the first encrypts, each
    decrypts. By default they are settings.REDIS_ENCRYPTION_KEYS.
    """

    decode_errors = find_decode_errors()

    def __init__(
        self,
        hosts: Sequence[Any] = ("redis://localhost:6379",),
        *,
        prefix: str = "asgi",
        expiry: float = 60,
        group_expiry: float | None = None,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
        timeout_seconds: float = 1,
        probe_seconds: float = 5,
        symmetric_encryption_keys: Sequence[str] | None = None,
        serializer_format: str = "msgpack",
        clock: Clock = time.monotonic,
    ) -> None:
        super().__init__(
            prefix=prefix,
            expiry=expiry,
            group_expiry=group_expiry,
            clock=clock,
            capacity=capacity,
            channel_capacity=channel_capacity,
        )
        self.timeout_seconds = timeout_seconds
        self.probe_seconds = probe_seconds
        self.hosts = decode_hosts(
            [make_layer_host(one) if isinstance(one, str) else one for one in hosts]
        )
        keys = symmetric_encryption_keys
        if keys is None:
            keys = get_encryption_keys()
        serializer = make_serializer(serializer_format, keys)
        self.serialize = serializer.serialize
        self.deserialize = serializer.deserialize

    def make_transports(self, receiver: Receiver) -> Sequence[Transport]:
        return [Shard(host, self, receiver) for host in self.hosts]

    def choose_transport(self, name: str) -> int:
        return choose_shard(name, len(self.hosts))
