"""One of the Redis servers that carry the channel layer."""

import asyncio
import contextlib
from collections.abc import Container, Coroutine
from typing import Any, Protocol

from channels_redis.utils import create_pool
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from connections.layers.mailbox import GAP
from connections.redis.clients import ask, cancel, close_client
from connections.redis.pubsub import Subscriptions

_RETRY_SECONDS = 0.5
_COMMANDS_AT_ONCE = 8
_NAMES_REMEMBERED = 10_000
"""Channels and groups that are told, after an outage, that a message is missing."""


class Layer(Protocol):
    """The layer that it is a part of, on one event loop."""

    channel_layer: Any

    @property
    def channels(self) -> Container[str]:
        """The channels that somebody here receives."""

    @property
    def groups(self) -> Container[str]:
        """The groups that have a member here."""

    def deliver(self, name: str, payload: bytes) -> None:
        """Hand on a message for a channel or a group."""

    def on_return(self, shard: "Shard") -> None:
        """Hear that subscriptions hold again, and what came meanwhile is lost."""


class Shard:
    """One Redis: its connections, and what is to be made good on its return."""

    def __init__(self, host: dict[str, Any], layer: Layer) -> None:
        outer = layer.channel_layer
        self._layer = layer
        self._timeout_seconds = outer.timeout_seconds
        options = {
            "socket_timeout": outer.timeout_seconds,
            "socket_connect_timeout": outer.timeout_seconds,
        }
        # A pooled connection may be stale after a restart: once again, at once.
        again = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
        never = Retry(NoBackoff(), 0)
        self._client = _make_client({**options, "retry": again, **host})
        self._subscriber = _make_client({**options, "retry": never, **host})
        self._subscriptions = Subscriptions(
            self._subscriber,
            prober=self._client,
            name="The channel layer",
            on_message=layer.deliver,
            on_return=self._on_return,
            probe_seconds=outer.probe_seconds,
            timeout_seconds=outer.timeout_seconds,
        )
        self._gate = asyncio.Semaphore(_COMMANDS_AT_ONCE)
        self.is_away = False
        """Whether sends are dropped at once, until Redis answers again."""
        self._may_be_back = asyncio.Event()
        # Of each channel and group, how many messages it has missed.
        self._missed: dict[str, int] = {}
        self._leaving: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def has(self, name: str) -> bool:
        """Tell whether a channel or group is subscribed to here."""
        return self._subscriptions.wants(name)

    def carries(self, name: str) -> bool:
        """Tell whether what is sent to a channel or group arrives here now."""
        return self._subscriptions.carries(name)

    async def subscribe(self, name: str) -> None:
        """Subscribe, now or as soon as Redis is there."""
        await self._subscriptions.add(name)

    async def unsubscribe(self, name: str) -> None:
        """Unsubscribe, now."""
        await self._subscriptions.discard(name)

    def unsubscribe_soon(self, name: str) -> None:
        """Unsubscribe in the background, unless it is wanted again by then."""
        self._leaving.add(name)
        if len(self._leaving) == 1:
            self._spawn(self._unsubscribe_leaving())

    async def publish(self, name: str, payload: bytes) -> bool:
        """Send a message; return False, and remember that, if Redis is away."""
        async with self._gate:
            if not self.is_away:
                try:
                    await ask(
                        self._client.publish(name, payload), self._timeout_seconds
                    )
                except (RedisError, OSError, TimeoutError) as exc:
                    self._subscriptions.on_failure(exc)
                    if not self.is_away:
                        self.is_away = True
                        self._spawn(self._make_good())
                else:
                    return True
        if name in self._missed or len(self._missed) < _NAMES_REMEMBERED:
            self._missed[name] = self._missed.get(name, 0) + 1
        return False

    async def flush(self) -> None:
        """Close the connections; they are opened again when they are needed."""
        await cancel(self._tasks)
        await self._subscriptions.close()
        await close_client(self._client)
        await close_client(self._subscriber)
        self.is_away = False
        self._missed.clear()
        self._leaving.clear()

    def _on_return(self) -> None:
        self._may_be_back.set()
        self._layer.on_return(self)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _unsubscribe_leaving(self) -> None:
        # One command for all that leave in the same instant.
        await asyncio.sleep(0)
        names, self._leaving = self._leaving, set()
        layer = self._layer
        gone = [
            one
            for one in names
            if one not in layer.channels and one not in layer.groups
        ]
        if gone:
            await self._subscriptions.discard(*gone)

    async def _make_good(self) -> None:
        """Once Redis is back, tell who has missed something, and how much."""
        outer = self._layer.channel_layer
        while self.is_away:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_SECONDS):
                    await self._may_be_back.wait()
            self._may_be_back.clear()
            try:
                while self._missed:
                    name, missed = next(iter(self._missed.items()))
                    gap = outer.serialize({"type": GAP, "missed": missed})
                    await ask(self._client.publish(name, gap), self._timeout_seconds)
                    left = self._missed[name] - missed
                    if left:
                        self._missed[name] = left
                    else:
                        del self._missed[name]
                self.is_away = False
            except (RedisError, OSError, TimeoutError):
                continue


def _make_client(host: dict[str, Any]) -> Redis:
    client: Redis = Redis.from_pool(create_pool(host))
    return client
