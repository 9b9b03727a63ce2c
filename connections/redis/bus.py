"""
Send messages between nodes over Redis. Imported only if REDIS_URL is set.

Messages are hints: each may be lost, and its effect then comes a beat later.
Therefore a Redis that is away raises nothing here.
"""

import asyncio
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
    """Sends JSON messages of a kind to all nodes, and receives them."""

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
        """The prefix of the pub/sub channels."""
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
        """True if messages arrive, as far as this node knows."""
        return self._subscriptions.is_subscribed

    def on_message(self, kind: str, callback: Callback) -> None:
        """Call back for each message of a kind, on the event loop."""
        self._callbacks.setdefault(kind, []).append(callback)

    def on_return(self, callback: Callable[[], None]) -> None:
        """Call back after each new subscription: messages may be missing."""
        self._returns.append(callback)

    async def start(self) -> None:
        """Start receiving; a second call does nothing."""
        await self._subscriptions.add(self._own_channel, self._all_channel)

    async def publish(self, kind: str, message: Mapping[str, Any]) -> bool:
        """
        Send a message to all nodes, this one included.

        Returns False if Redis did not take it; an outage is logged once.

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
        """Stop receiving and close the connections."""
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
        loop = asyncio.get_running_loop()
        for callback in callbacks:
            # The loop logs what one callback raises; the others still run.
            loop.call_soon(callback, message)

    def _on_return(self) -> None:
        for callback in self._returns:
            callback()
