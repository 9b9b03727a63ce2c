"""The limits of one connection: as configured, or as its consumer returns them."""

import math
from dataclasses import dataclass, fields

from connections.config.loader import WebSocketConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """
    The limits of one connection, set once, at its handshake.

    Names and units are those of the configuration. The server below ASGI
    enforces the configured max_message_size; a larger one here has no effect.
    """

    max_connections_per_client: int
    idle_timeout_seconds: float
    max_message_size: int
    messages_per_second: float
    burst_messages: int
    bytes_per_second: int
    burst_bytes: int

    def __post_init__(self) -> None:
        """
        Check that each limit is a finite, positive number, and counts are whole.

        Raises:
            ValueError: a limit is no such number.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            is_whole = isinstance(value, int) and not isinstance(value, bool)
            is_number = is_whole or (field.type is float and isinstance(value, float))
            is_off = field.name == "idle_timeout_seconds" and value == 0
            if not is_number or not (0 < value < math.inf or is_off):
                kind = "number" if field.type is float else "whole number"
                raise ValueError(
                    f"limits: {field.name}: {value!r} is not allowed; "
                    f"a {kind} more than 0 (idle_timeout_seconds: 0 is never)"
                )

    @classmethod
    def configured(cls, config: WebSocketConfig) -> "Limits":
        """Return the limits of the configuration."""
        global _last_made
        if _last_made is None or _last_made[0] is not config:
            _last_made = config, cls._make(config)
        return _last_made[1]

    @classmethod
    def _make(cls, config: WebSocketConfig) -> "Limits":
        rate = config.rate_limit
        return cls(
            max_connections_per_client=config.max_connections_per_client,
            idle_timeout_seconds=config.idle_timeout_seconds,
            max_message_size=config.max_message_size,
            messages_per_second=rate.messages_per_second,
            burst_messages=rate.burst_messages,
            bytes_per_second=rate.bytes_per_second,
            burst_bytes=rate.burst_bytes,
        )


_last_made: tuple[WebSocketConfig, Limits] | None = None
