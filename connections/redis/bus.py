"""Send messages between nodes over Redis. Imported only if REDIS_URL is set."""

import json
from collections.abc import Mapping
from typing import Any

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from connections.bus import Bus
from connections.redis.clients import ask, close_client, make_client
from connections.redis.pubsub import Subscriptions


class RedisBus(Bus):
    """A bus on the pub/sub channels of Redis."""

    def __init__(
        self,
        url: str,
        *,
        node_id: str,
        prefix: str = "orchestra",
        probe_seconds: float = 5,
        timeout_seconds: float = 1,
    ) -> None:
        super().__init__()
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
            on_message=self.hand_on,
            on_return=self.report_return,
            probe_prefix=self.channels,
            probe_seconds=probe_seconds,
            timeout_seconds=timeout_seconds,
        )

    @property
    def is_subscribed(self) -> bool:
        return self._subscriptions.is_subscribed

    async def start(self) -> None:
        await self._subscriptions.add(self._own_channel, self._all_channel)

    async def publish(self, kind: str, message: Mapping[str, Any]) -> bool:
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
        await self._subscriptions.close()
        await close_client(self._client)
        await close_client(self._subscriber)
