"""Define the bus between nodes, for every store."""

import asyncio
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

logger = logging.getLogger(__name__)

Message = dict[str, Any]
Callback = Callable[[Message], None]


class Bus(ABC):
    """
    Sends JSON messages of a kind to all nodes, and receives them.

    Messages are hints: each may be lost, and its effect then comes a beat later.
    Therefore a store that is away raises nothing here.
    """

    def __init__(self) -> None:
        self._callbacks: dict[str, list[Callback]] = {}
        self._returns: list[Callable[[], None]] = []

    @property
    @abstractmethod
    def is_subscribed(self) -> bool:
        """True if messages arrive, as far as this node knows."""

    def on_message(self, kind: str, callback: Callback) -> None:
        """Call back for each message of a kind, on the event loop."""
        self._callbacks.setdefault(kind, []).append(callback)

    def on_return(self, callback: Callable[[], None]) -> None:
        """Call back after each new subscription: messages may be missing."""
        self._returns.append(callback)

    @abstractmethod
    async def start(self) -> None:
        """Start receiving; a second call does nothing."""

    @abstractmethod
    async def publish(self, kind: str, message: Mapping[str, Any]) -> bool:
        """
        Send a message to all nodes, this one included.

        Returns False if the store did not take it; an outage is logged once.

        Raises:
            TypeError: the message is not JSON.
        """

    async def publish_all(
        self, kind: str, messages: Sequence[Mapping[str, Any]]
    ) -> bool:
        """Send messages of a kind, as publish() sends one."""
        return all([await self.publish(kind, one) for one in messages])

    @abstractmethod
    async def close(self) -> None:
        """Stop receiving and close the connections."""

    def hand_on(self, channel: str, payload: bytes | str) -> None:
        """Call back for a message that arrived on a channel."""
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

    def report_return(self) -> None:
        """Call back because messages may be missing."""
        loop = asyncio.get_running_loop()
        for callback in self._returns:
            loop.call_soon(callback)
