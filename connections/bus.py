"""
Messages between nodes over Redis. Imported only where REDIS_URL is set.

They are hints: each may be lost, and what they speed up happens without them a
beat later. So nothing here raises for a Redis that is away.
"""

import asyncio
import json
import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from connections.redis_clients import ask, cancel, make_client
from connections.units import Clock

logger = logging.getLogger(__name__)

Message = dict[str, Any]
Callback = Callable[[Message], None]

_RETRY_SECONDS = (0.1, 2.0)
"""The first and the longest wait between attempts to subscribe again."""


class RedisBus:
    """
    One subscription of a node: what concerns it, and what concerns all.

    A subscription that says nothing for probe_seconds is asked to carry a
    message to this node itself, and made anew if that does not arrive: after a
    fail-over a connection can be healthy and attached to the wrong server.
    """

    def __init__(
        self,
        url: str,
        *,
        node_id: str,
        prefix: str = "orchestra",
        probe_seconds: float = 5,
        timeout_seconds: float = 1,
        clock: Clock = time.monotonic,
    ) -> None:
        self.channels = f"{prefix}:bus:"
        """What the names of the pub/sub channels begin with."""
        self.is_subscribed = False
        self._own_channel = f"{self.channels}node:{node_id}"
        self._all_channel = f"{self.channels}all"
        self._probe_seconds = probe_seconds
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._client = make_client(url, timeout_seconds=timeout_seconds)
        # redis-py would subscribe again behind our back, and nobody would learn
        # that messages are missing.
        self._subscriber = make_client(
            url, timeout_seconds=timeout_seconds, retry=Retry(NoBackoff(), 0)
        )
        self._callbacks: dict[str, list[Callback]] = {}
        self._returns: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None
        self._has_subscribed = False
        self._is_failing = False

    def on_message(self, kind: str, callback: Callback) -> None:
        """Have messages of a kind handed to a callback, on the event loop."""
        self._callbacks.setdefault(kind, []).append(callback)

    def on_return(self, callback: Callable[[], None]) -> None:
        """Have a callback told of a new subscription: messages may be missing."""
        self._returns.append(callback)

    def start(self) -> None:
        """Begin to listen; calling it again does nothing."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="The bus")

    async def publish(self, kind: str, message: Mapping[str, Any]) -> bool:
        """
        Send a message to all nodes, this one included.

        Returns whether Redis took it; False is logged once per outage.

        Raises:
            TypeError: the message is not JSON.
        """
        text = json.dumps({**message, "kind": kind})
        try:
            await ask(
                self._client.publish(self._all_channel, text), self._timeout_seconds
            )
        except (RedisError, OSError, TimeoutError) as exc:
            self._note_failure(exc)
            return False
        return True

    async def close(self) -> None:
        """Stop listening and let go of Redis."""
        if self._task is not None:
            await cancel([self._task])
        await self._client.aclose()
        await self._subscriber.aclose()

    async def _run(self) -> None:
        wait_seconds, longest_seconds = _RETRY_SECONDS
        while True:
            started = self._clock()
            try:
                await self._listen()
            except (RedisError, OSError, TimeoutError) as exc:
                self._note_failure(exc)
            finally:
                self.is_subscribed = False
            if self._clock() - started > longest_seconds:
                wait_seconds = _RETRY_SECONDS[0]
            await asyncio.sleep(wait_seconds * random.uniform(0.5, 1))
            wait_seconds = min(2 * wait_seconds, longest_seconds)

    async def _listen(self) -> None:
        """
        Subscribe and hand messages on, for as long as that works.

        Raises:
            RedisError, OSError, TimeoutError: it does not work any more.
        """
        async with self._subscriber.pubsub() as subscription:
            async with asyncio.timeout(self._timeout_seconds):
                await subscription.subscribe(self._own_channel, self._all_channel)
                confirmed = 0
                while confirmed < 2:
                    message = await subscription.get_message(timeout=None)
                    confirmed += message["type"] == "subscribe"
                    self._hand_on(message)
            self._note_return()
            is_probed = False
            while True:
                message = await subscription.get_message(timeout=self._probe_seconds)
                if message is not None:
                    is_probed = False
                    self._hand_on(message)
                elif is_probed:
                    raise TimeoutError("the subscription is silent")
                else:
                    is_probed = True
                    probe = self._client.publish(self._own_channel, '{"kind": "probe"}')
                    await ask(probe, self._timeout_seconds)

    def _hand_on(self, raw: Message) -> None:
        if raw["type"] != "message":
            return
        try:
            message = json.loads(raw["data"])
            callbacks = self._callbacks.get(message["kind"], ())
        except (ValueError, KeyError, TypeError):
            logger.warning(
                "A message on %s is not ours", raw["channel"], extra={"event": "bus"}
            )
            return
        for callback in callbacks:
            try:
                callback(message)
            except Exception:
                logger.exception(
                    "A message of kind %s failed",
                    message["kind"],
                    extra={"event": "bus_failed"},
                )

    def _note_failure(self, exc: Exception) -> None:
        if not self._is_failing:
            self._is_failing = True
            logger.warning(
                "The bus between nodes is down: %s",
                exc or type(exc).__name__,
                extra={"event": "bus_down"},
            )

    def _note_return(self) -> None:
        if self._is_failing:
            logger.info("The bus between nodes is back", extra={"event": "bus_back"})
        self._is_failing = False
        self.is_subscribed = True
        if self._has_subscribed:
            for callback in self._returns:
                callback()
        self._has_subscribed = True
