"""One of the Redis servers that carry the channel layer."""

import asyncio
from contextlib import suppress
from typing import Any, Protocol

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, RedisError

from connections.asgi import Message
from connections.background import BackgroundTasks
from connections.error_log import get_logger
from connections.layers.compat import create_pool
from connections.layers.losses import Losses
from connections.layers.mailbox import GAP
from connections.layers.transport import Receiver
from connections.redis.clients import ask, close_client, make_timeouts
from connections.redis.pubsub import Subscriptions

logger = get_logger(__name__)

_COMMANDS_AT_ONCE = 8


class Layer(Protocol):
    """The part of RedisLayer that holds its configuration."""

    prefix: str
    probe_seconds: float
    timeout_seconds: float

    def serialize(self, message: Message) -> bytes:
        """Return a message as bytes."""


class Shard:
    """
    The connections to one Redis, and the losses to report on its return.

    While it is away publish() drops messages and counts them by name; afterwards
    each name is sent a gap of that size.
    """

    def __init__(self, host: dict[str, Any], layer: Layer, receiver: Receiver) -> None:
        self._layer = layer
        self._receiver = receiver
        self._timeout_seconds = layer.timeout_seconds
        options = make_timeouts(layer.timeout_seconds)
        # A pooled connection may be stale after a restart: it is opened anew, once.
        once = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
        never = Retry(NoBackoff(), 0)
        self._client = _make_client({**options, "retry": once, **host})
        self._subscriber = _make_client({**options, "retry": never, **host})
        self._subscriptions = Subscriptions(
            self._subscriber,
            prober=self._client,
            name="The channel layer",
            on_message=receiver.deliver,
            on_return=self._on_return,
            probe_prefix=layer.prefix,
            probe_seconds=layer.probe_seconds,
            timeout_seconds=layer.timeout_seconds,
        )
        self._gate = asyncio.Semaphore(_COMMANDS_AT_ONCE)
        self._losses = Losses(self._send_gap, (RedisError, OSError, TimeoutError))
        self._leaving: set[str] = set()
        self._tasks = BackgroundTasks()

    def has(self, name: str) -> bool:
        """Return whether a channel or group is, or is to be, subscribed to."""
        return self._subscriptions.wants(name)

    def carries(self, name: str) -> bool:
        """Return whether a message to a channel or group arrives here now."""
        return self._subscriptions.carries(name)

    async def subscribe(self, name: str) -> None:
        """Subscribe, now or as soon as Redis is there."""
        await self._subscriptions.add(name)

    async def unsubscribe(self, name: str) -> None:
        """Unsubscribe, now."""
        await self._subscriptions.discard(name)

    def unsubscribe_soon(self, name: str) -> None:
        """Unsubscribe in the background, unless it is received again by then."""
        self._leaving.add(name)
        if len(self._leaving) == 1:
            self._tasks.start(self._unsubscribe_leaving(), "The layer unsubscribes")

    async def publish(self, name: str, payload: bytes) -> bool:
        """
        Send a message; return False, and count it as missed, if Redis is away.

        A message to a name that the user of Redis may not use is lost alone.
        """
        async with self._gate:
            if not self._losses.is_away:
                try:
                    await ask(
                        self._client.publish(name, payload), self._timeout_seconds
                    )
                except NoPermissionError as exc:
                    logger.error(
                        "Redis refuses a message of the channel layer: %s",
                        exc,
                        exc_info=exc,
                        extra={"event": "layer_forbidden"},
                    )
                    return False
                except (RedisError, OSError, TimeoutError) as exc:
                    self._subscriptions.on_failure(exc)
                    self._losses.begin_outage()
                else:
                    return True
        self._losses.add(name)
        return False

    async def flush(self) -> None:
        """Close the connections; they are opened again when they are needed."""
        await self._tasks.stop()
        await self._losses.flush()
        await self._subscriptions.close()
        await close_client(self._client)
        await close_client(self._subscriber)
        self._leaving.clear()

    def _on_return(self) -> None:
        self._losses.on_return()
        self._receiver.on_return(self)

    async def _unsubscribe_leaving(self) -> None:
        # One command for all that leave in the same instant.
        await asyncio.sleep(0)
        names, self._leaving = self._leaving, set()
        gone = [name for name in names if not self._receiver.is_received(name)]
        if gone:
            await self._subscriptions.discard(*gone)

    async def _send_gap(self, name: str, missed: int) -> None:
        gap = self._layer.serialize({"type": GAP, "missed": missed})
        with suppress(NoPermissionError):
            await ask(self._client.publish(name, gap), self._timeout_seconds)


def _make_client(host: dict[str, Any]) -> Redis:
    client: Redis = Redis.from_pool(create_pool(host))
    return client
