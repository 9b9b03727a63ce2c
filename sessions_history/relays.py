"""Choose how hints about sessions reach the other nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from connections.bus import Bus
from connections.redis.encryption import get_encryption_keys, make_cipher
from sessions_history.bus_relay import BusRelay, OnMessage

if TYPE_CHECKING:
    from sessions_history.redis_relay import Relay


def make_relay(
    bus: Bus | None,
    redis_url: str | None,
    *,
    node_id: str,
    on_message: OnMessage,
    on_return: Callable[[], None],
) -> BusRelay | Relay | None:
    """Return the relay over the bus, or over Redis; None for a node alone."""
    if bus is not None:
        return BusRelay(
            bus, node_id=node_id, on_message=on_message, on_return=on_return
        )
    if not redis_url:
        return None
    from sessions_history import redis_relay

    return redis_relay.Relay(
        redis_url,
        on_message=on_message,
        on_return=on_return,
        cipher=make_cipher(get_encryption_keys()),
    )
