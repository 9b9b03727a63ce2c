"""A cache that a test can take away."""

from typing import Any

from django.core.cache.backends.base import InvalidCacheKey
from django.core.cache.backends.locmem import LocMemCache

PLACE = f"{__name__}.SwitchableCache"


class SwitchableCache(LocMemCache):
    """Keeps values in memory, or raises; refuses keys with spaces as memcached does."""

    is_away = False

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        if " " in str(key):
            raise InvalidCacheKey(key)
        if type(self).is_away:
            raise ConnectionError("planted")
        return super().get(key, default, version)
