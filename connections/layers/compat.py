"""
The undocumented names of Channels and channels-redis that RedisLayer relies on.

No other module imports channels-redis. The import of this module fails with
IncompatibleDependency when an installed version lacks one of the names.
"""

from collections.abc import Callable, Sequence
from pkgutil import resolve_name
from typing import Any, Protocol

from redis.asyncio import ConnectionPool

from connections.asgi import Message
from connections.dependencies import ForeignName, require_names

REQUIRED_NAMES = (
    *(
        ForeignName("channels", f"channels.layers:BaseChannelLayer.{name}")
        for name in (
            "compile_capacities",
            "get_capacity",
            "require_valid_channel_name",
            "require_valid_group_name",
        )
    ),
    *(
        ForeignName("channels-redis", f"channels_redis.utils:{name}")
        for name in ("_consistent_hash", "create_pool", "decode_hosts")
    ),
    ForeignName("channels-redis", "channels_redis.serializers:registry.get_serializer"),
)
"""Names without which RedisLayer does not work."""

require_names(REQUIRED_NAMES)


class Serializer(Protocol):
    """Turns messages into bytes and back, encrypted where there are keys."""

    def serialize(self, message: Message) -> bytes:
        """Return a message as bytes."""

    def deserialize(self, payload: bytes) -> Message:
        """Return the message that the bytes stand for."""


decode_hosts: Callable[[Sequence[Any]], list[dict[str, Any]]] = resolve_name(
    "channels_redis.utils:decode_hosts"
)
"""channels_redis/utils.py: returns `hosts` as keyword arguments of redis-py."""

create_pool: Callable[[dict[str, Any]], ConnectionPool] = resolve_name(
    "channels_redis.utils:create_pool"
)
"""channels_redis/utils.py: returns a pool of connections to a decoded host."""

choose_shard: Callable[[str, int], int] = resolve_name(
    "channels_redis.utils:_consistent_hash"
)
"""channels_redis/utils.py: returns which of so many Redis carries a name."""


def make_serializer(format_name: str, keys: Sequence[str] | None) -> Serializer:
    """
    Return a registered serializer (channels_redis/serializers.py).

    Raises:
        KeyError: no serializer has the name.
        ValueError: the keys are no list of texts, or `cryptography` is not installed.
    """
    if not isinstance(keys, str | bytes) and not all(keys or ()):
        raise ValueError("symmetric_encryption_keys has an empty key")
    registry: Any = resolve_name("channels_redis.serializers:registry")
    serializer: Serializer = registry.get_serializer(
        format_name, symmetric_encryption_keys=keys
    )
    return serializer


def find_decode_errors() -> tuple[type[Exception], ...]:
    """
    Return what deserialize() raises for bytes that stand for no message.

    msgpack and json raise ValueErrors, TypeErrors and, for deep nesting,
    RecursionErrors; cryptography raises InvalidToken (cryptography/fernet.py).
    """
    errors: tuple[type[Exception], ...] = (ValueError, TypeError, RecursionError)
    try:
        return (*errors, resolve_name("cryptography.fernet:InvalidToken"))
    except ImportError:
        return errors
