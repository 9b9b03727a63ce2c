"""
Subscribe to Redis pub/sub, and report possible losses.

Imported only where REDIS_URL is set.
"""

import asyncio
import os
import random
import time
from collections.abc import Callable, Collection
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ReadOnlyError, RedisError, ResponseError

from connections.background import BackgroundTasks
from connections.deadline import deadline
from connections.error_log import get_logger
from connections.redis.clients import ask
from connections.units import Clock

logger = get_logger(__name__)

OnMessage = Callable[[str, bytes], None]

_RETRY_SECONDS = (0.1, 2.0)
"""The first and the longest wait between attempts to subscribe again."""

_CHANNELS_PER_COMMAND = 500


class Subscriptions:
    """
    A set of channels on one connection, resubscribed whenever it breaks.

    After probe_seconds of silence a message to this process itself is sent through
    the connection, on a channel whose name begins with probe_prefix: the user of
    Redis may be allowed no other. If it does not arrive the connection is reopened:
    after a fail-over it can be healthy and attached to the wrong server.

    The client must not reconnect by itself, which would hide a gap, and must not
    decode; the prober may do both. Their owner closes them.
    """

    def __init__(
        self,
        client: Redis,
        *,
        prober: Redis,
        name: str,
        on_message: OnMessage,
        on_return: Callable[[], None],
        probe_prefix: str,
        probe_seconds: float = 5,
        timeout_seconds: float = 1,
        clock: Clock = time.monotonic,
    ) -> None:
        self.is_subscribed = False
        self._client = client
        self._prober = prober
        self._name = name
        self._on_message = on_message
        self._on_return = on_return
        self._probe_seconds = probe_seconds
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._probe_channel = f"{probe_prefix}probe:{os.urandom(16).hex()}"
        self._wanted: set[str] = {self._probe_channel}
        # Done once Redis has confirmed the subscription to a channel.
        self._confirmed: dict[str, asyncio.Future[None]] = {}
        self._subscription: Any = None
        self._tasks = BackgroundTasks()
        self._has_subscribed = False
        self._is_failing = False

    def start(self) -> None:
        """Start receiving; a second call does nothing."""
        if not self._tasks:
            self._tasks.start(self._run(), self._name)

    def wants(self, channel: str) -> bool:
        """Return True if a channel is subscribed or will be."""
        return channel in self._wanted

    def carries(self, channel: str) -> bool:
        """Return True if Redis has confirmed a channel on a working connection."""
        future = self._confirmed.get(channel)
        return self.is_subscribed and future is not None and future.done()

    async def add(self, *channels: str) -> bool:
        """
        Subscribe; return True if Redis confirmed it in time.

        An unconfirmed channel is retried until it is confirmed or discarded.
        """
        self.start()
        new = [channel for channel in channels if channel not in self._wanted]
        self._wanted.update(new)
        waits = [self._expect(channel) for channel in channels]
        if new and self.is_subscribed:
            await self._send(self._subscription.subscribe, new)
        if all(future.done() for future in waits):
            return True
        if self._is_failing:
            # An outage must not hold up each handshake for the timeout.
            return False
        try:
            async with deadline(self._timeout_seconds):
                await asyncio.wait(waits)
        except TimeoutError:
            return False
        return True

    async def discard(self, *channels: str) -> None:
        """Unsubscribe; a Redis that is away forgets by itself."""
        self._wanted.difference_update(channels)
        for channel in channels:
            self._confirmed.pop(channel, None)
        if self.is_subscribed:
            await self._send(self._subscription.unsubscribe, channels)

    async def close(self) -> None:
        """Stop receiving and forget the channels."""
        await self._tasks.stop()
        self._wanted = {self._probe_channel}
        self._confirmed.clear()
        self._has_subscribed = False

    def on_failure(self, exc: Exception) -> None:
        """Log that Redis is away, once per outage."""
        if not self._is_failing:
            self._is_failing = True
            logger.warning(
                "%s is down: %s",
                self._name,
                str(exc) or type(exc).__name__,
                extra={"event": "subscription_down"},
            )

    def _expect(self, channel: str) -> asyncio.Future[None]:
        future = self._confirmed.get(channel)
        if future is None:
            future = asyncio.get_running_loop().create_future()
            self._confirmed[channel] = future
        return future

    async def _send(self, command: Any, channels: Collection[str]) -> None:
        try:
            await ask(command(*channels), self._timeout_seconds)
        except (RedisError, OSError, TimeoutError) as exc:
            # The listener notices too, and subscribes to all wanted channels.
            self.on_failure(exc)

    async def _run(self) -> None:
        wait_seconds, longest_seconds = _RETRY_SECONDS
        while True:
            started = self._clock()
            try:
                await self._listen()
            except Exception as exc:
                # redis-py raises more than RedisError where a reply is garbled.
                self.on_failure(exc)
            finally:
                self.is_subscribed = False
                self._subscription = None
            if self._clock() - started > longest_seconds:
                wait_seconds = _RETRY_SECONDS[0]
            await asyncio.sleep(wait_seconds * random.uniform(0.5, 1))
            wait_seconds = min(2 * wait_seconds, longest_seconds)

    async def _listen(self) -> None:
        """
        Subscribe and pass messages on until the connection breaks.

        Raises:
            RedisError, OSError, TimeoutError: the connection broke.
        """
        async with self._client.pubsub() as subscription:
            async with deadline(self._timeout_seconds):
                await self._subscribe_to_all(subscription)
            self._on_subscribed(subscription)
            checked_at = self._clock()
            while True:
                message = await subscription.get_message(timeout=self._probe_seconds)
                if message is None or self._clock() - checked_at > self._probe_seconds:
                    await self._check_master()
                    checked_at = self._clock()
                if message is None:
                    probe = self._prober.publish(self._probe_channel, b"")
                    await ask(probe, self._timeout_seconds)
                    async with deadline(self._probe_seconds):
                        message = await subscription.get_message(timeout=None)
                self._take(message)

    async def _check_master(self) -> None:
        """
        Check by a write without effect that the prober is not on a replica.

        After a fail-over behind one address, connections to the former master stay
        open, and no message of the others arrives there.

        Raises:
            RedisError, OSError, TimeoutError: it is, or Redis is away.
        """
        try:
            await ask(self._prober.delete(self._probe_channel), self._timeout_seconds)
        except ReadOnlyError:
            await self._prober.connection_pool.disconnect()
            raise
        except ResponseError:
            return  # A node of a cluster names another, or the write is not allowed.

    async def _subscribe_to_all(self, subscription: Any) -> None:
        """Subscribe to the wanted channels, also those added meanwhile."""
        known: set[str] = set()
        while new := list(self._wanted - known)[:_CHANNELS_PER_COMMAND]:
            await subscription.subscribe(*new)
            known.update(new)
            missing = set(new)
            while missing:
                message = await subscription.get_message(timeout=None)
                self._take(message)
                if message["type"] == "subscribe":
                    missing.discard(message["channel"].decode())
        if stale := known - self._wanted:
            await subscription.unsubscribe(*stale)

    def _take(self, message: dict[str, Any]) -> None:
        channel = message["channel"].decode()
        if message["type"] == "subscribe":
            future = self._confirmed.get(channel)
            if future is not None and not future.done():
                future.set_result(None)
        elif message["type"] == "message" and channel != self._probe_channel:
            try:
                self._on_message(channel, message["data"])
            except Exception as exc:
                # One message that nobody can take must not end the subscription.
                logger.error(
                    "%s could not hand on a message: %s",
                    self._name,
                    exc,
                    exc_info=exc,
                    extra={"event": "subscription_message_failed"},
                )

    def _on_subscribed(self, subscription: Any) -> None:
        if self._is_failing:
            logger.warning(
                "%s is back", self._name, extra={"event": "subscription_back"}
            )
        self._is_failing = False
        self._subscription = subscription
        self.is_subscribed = True
        if self._has_subscribed:
            self._on_return()
        self._has_subscribed = True
