"""
Send hints about sessions to the other nodes over Redis.

Imported only if REDIS_URL is set. A hint may be lost, because the log holds the
truth. Therefore a Redis that is away raises nothing here.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from connections.background import BackgroundTasks
from connections.redis.clients import ask, make_client
from connections.redis.encryption import Cipher
from connections.redis.pubsub import Subscriptions

logger = logging.getLogger(__name__)

OnMessage = Callable[[str, dict[str, Any]], None]

_TIMEOUT_SECONDS = 1
_MAX_WAITING = 10_000
_PER_PIPELINE = 200


class Relay:
    """A Redis channel for each session with a connection on this node."""

    is_alone = False
    """Whether another node listens is not known: Redis drops what nobody asked for."""

    def __init__(
        self,
        url: str,
        *,
        on_message: OnMessage,
        on_return: Callable[[], None],
        prefix: str = "orchestra",
        cipher: Cipher | None = None,
    ) -> None:
        self._cipher = cipher
        self._prefix = f"{prefix}:session:"
        self._on_message = on_message
        self._client = make_client(url, timeout_seconds=_TIMEOUT_SECONDS)
        self._subscriber = make_client(
            url,
            timeout_seconds=_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
            decode_responses=False,
        )
        self._subscriptions = Subscriptions(
            self._subscriber,
            prober=self._client,
            name="The relay of sessions",
            on_message=self._hand_on,
            on_return=on_return,
            probe_prefix=self._prefix,
        )
        self._waiting: deque[tuple[str, bytes]] = deque(maxlen=_MAX_WAITING)
        self._tasks = BackgroundTasks()
        self._sending: asyncio.Task[None] | None = None

    async def join(self, session_id: str) -> None:
        """Subscribe to a session; while Redis is away, once it is back."""
        await self._subscriptions.add(self._prefix + session_id)

    async def leave(self, session_id: str) -> None:
        """Unsubscribe from a session."""
        await self._subscriptions.discard(self._prefix + session_id)

    def publish(self, session_id: str, message: Mapping[str, Any]) -> None:
        """Send a hint to the other nodes soon; drop it if Redis does not take it."""
        text = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
        payload = text.encode()
        if self._cipher is not None:
            payload = self._cipher.encrypt(payload)
        self._waiting.append((self._prefix + session_id, payload))
        if self._sending is None or self._sending.done():
            self._sending = self._tasks.start(self._send(), "The relay")

    async def flush(self) -> None:
        """Wait until the hints so far are sent, or dropped."""
        while self._sending is not None and not self._sending.done():
            await asyncio.wait([self._sending])

    async def close(self) -> None:
        """Stop receiving and close the connections to Redis."""
        await self._subscriptions.close()
        await self._tasks.stop()
        await self._client.aclose()
        await self._subscriber.aclose()

    async def _send(self) -> None:
        while self._waiting:
            pipeline = self._client.pipeline(transaction=False)
            for _ in range(min(len(self._waiting), _PER_PIPELINE)):
                pipeline.publish(*self._waiting.popleft())
            try:
                await ask(pipeline.execute(), _TIMEOUT_SECONDS)
            except (RedisError, OSError, TimeoutError) as exc:
                self._subscriptions.on_failure(exc)
                self._waiting.clear()

    def _hand_on(self, channel: str, payload: bytes) -> None:
        try:
            if self._cipher is not None:
                payload = self._cipher.decrypt(payload)
            message = json.loads(payload)
        except ValueError:
            logger.warning(
                "A message on %s is not ours", channel, extra={"event": "relay_foreign"}
            )
            return
        self._on_message(channel.removeprefix(self._prefix), message)
