"""Bound the answers under way on one node."""

import asyncio
from collections import Counter
from typing import Any

from sessions_history.exceptions import TooManyStreams


class StreamQuota:
    """Counts the answers under way on one node, in all and by client."""

    def __init__(self, most_per_client: int, most: int) -> None:
        self._most_per_client = most_per_client
        self._most = most
        self._by_client: Counter[str] = Counter()

    def require_room(self, client_id: str) -> None:
        """
        Check that one more answer may begin, for a client or for the application.

        Raises:
            TooManyStreams: the client or the node has its limit.
        """
        own = self._by_client[client_id] if client_id else 0
        if own >= self._most_per_client or self._by_client.total() >= self._most:
            raise TooManyStreams

    def count_until(self, work: "asyncio.Future[Any]", client_id: str) -> None:
        """Count an answer until its work is done."""
        self._by_client[client_id] += 1
        work.add_done_callback(lambda done: self._release(client_id))

    def _release(self, client_id: str) -> None:
        self._by_client[client_id] -= 1
        if not self._by_client[client_id]:
            del self._by_client[client_id]
