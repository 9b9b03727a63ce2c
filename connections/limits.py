"""The limits of one connection: as configured, or as its consumer returns them."""

from dataclasses import dataclass, fields

from connections.config.loader import WebSocketConfig

_MOST = 2**53
"""Up to here a float, as in Lua, holds each whole number."""


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
    compression: bool = False
    """Compress messages if the client offers it; under Orchestra's server alone."""

    def __post_init__(self) -> None:
        """
        Check that each limit is a positive number up to 2^53, and counts are whole.

        Raises:
            ValueError: a limit is no such number.
        """
        if not isinstance(self.compression, bool):
            raise ValueError(
                f"limits: compression: {self.compression!r} is not allowed; "
                "True or False"
            )
        for field in fields(self):
            if field.name == "compression":
                continue
            value = getattr(self, field.name)
            is_whole = isinstance(value, int) and not isinstance(value, bool)
            is_number = is_whole or (field.type is float and isinstance(value, float))
            is_off = field.name == "idle_timeout_seconds" and value == 0
            if not is_number or not (0 < value <= _MOST or is_off):
                kind = "number" if field.type is float else "whole number"
                shown = f"{value!r:.40}" if is_number else repr(value)
                raise ValueError(
                    f"limits: {field.name}: {shown} is not allowed; a {kind} "
                    "more than 0, at most 2^53 (idle_timeout_seconds: 0 is never)"
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
            compression=config.compression.enabled,
        )


_last_made: tuple[WebSocketConfig, Limits] | None = None
