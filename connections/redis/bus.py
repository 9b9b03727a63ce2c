"""
Messages between nodes over Redis. Imported only where REDIS_URL is set.

They are hints: each may be lost, and what they speed up happens without them a
beat later. So nothing here raises for a Redis that is away.
"""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from connections.redis.clients import ask, close_client, make_client
from connections.redis.pubsub import Subscriptions

logger = logging.getLogger(__name__)

Message = dict[str, Any]
Callback = Callable[[Message], None]


class RedisBus:
    """What concerns one node, and what concerns all: JSON objects of a kind."""

    def __init__(
        self,
        url: str,
        *,
        node_id: str,
        prefix: str = "orchestra",
        probe_seconds: float = 5,
        timeout_seconds: float = 1,
    ) -> None:
        self.channels = f"{prefix}:bus:"
        """What the names of the pub/sub channels begin with."""
        self._own_channel = f"{self.channels}node:{node_id}"
        self._all_channel = f"{self.channels}all"
        self._timeout_seconds = timeout_seconds
        self._client = make_client(url, timeout_seconds=timeout_seconds)
        self._subscriber = make_client(
            url,
            timeout_seconds=timeout_seconds,
            retry=Retry(NoBackoff(), 0),
            decode_responses=False,
        )
        self._subscriptions = Subscriptions(
            self._subscriber,
            prober=self._client,
            name="The bus between nodes",
            on_message=self._hand_on,
            on_return=self._on_return,
            probe_seconds=probe_seconds,
            timeout_seconds=timeout_seconds,
        )
        self._callbacks: dict[str, list[Callback]] = {}
        self._returns: list[Callable[[], None]] = []

    @property
    def is_subscribed(self) -> bool:
        """Whether messages arrive, as far as this node can tell."""
        return self._subscriptions.is_subscribed

    def on_message(self, kind: str, callback: Callback) -> None:
        """Have messages of a kind handed to a callback, on the event loop."""
        self._callbacks.setdefault(kind, []).append(callback)

    def on_return(self, callback: Callable[[], None]) -> None:
        """Have a callback told of a new subscription: messages may be missing."""
        self._returns.append(callback)

    async def start(self) -> None:
        """Begin to listen; calling it again does nothing."""
        await self._subscriptions.add(self._own_channel, self._all_channel)

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
            self._subscriptions.on_failure(exc)
            return False
        return True

    async def close(self) -> None:
        """Stop listening and let go of Redis."""
        await self._subscriptions.close()
        await close_client(self._client)
        await close_client(self._subscriber)

    def _hand_on(self, channel: str, payload: bytes) -> None:
        try:
            message = json.loads(payload)
            callbacks = self._callbacks.get(message["kind"], ())
        except (ValueError, KeyError, TypeError):
            logger.warning(
                "A message on %s is not ours", channel, extra={"event": "bus_foreign"}
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

    def _on_return(self) -> None:
        for callback in self._returns:
            callback()
