"""Remember close requests for a minute, for connections that join later."""

from collections.abc import Iterator
from dataclasses import dataclass

from connections.hub.connection import LiveConnection
from connections.hub.index import find_keys, is_named
from connections.models import CloseRequest

Target = CloseRequest.Target
_Key = tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedRequest:
    """A close request, when it was applied, and the latest arrival that it ends."""

    request: CloseRequest
    applied_at: float
    latest: float

    @property
    def key(self) -> _Key:
        """What the request does; a later one with the same key replaces it."""
        request = self.request
        return request.target, request.value, request.reason, request.spread_seconds


class RecentRequests:
    """The close requests of the last minute, found by what they name."""

    def __init__(self, node_id: str, seconds: float) -> None:
        self._node_id = node_id
        self._seconds = seconds
        # Oldest first.
        self._by_key: dict[_Key, AppliedRequest] = {}
        self._by_name: dict[tuple[str, str], dict[_Key, AppliedRequest]] = {}
        # Requests for an address, a node or all, which no look-up finds.
        self._others: dict[_Key, AppliedRequest] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def add(self, applied: AppliedRequest) -> None:
        """Remember a request, and forget old ones."""
        self.forget_old(applied.applied_at)
        self._remove(applied.key)
        self._by_key[applied.key] = applied
        self._group_of(applied)[applied.key] = applied

    def find(self, connection: LiveConnection, now: float) -> list[AppliedRequest]:
        """Return the requests that name a connection, in their order."""
        if not self._by_key:
            return []
        self.forget_old(now)
        found = list(self._find_all(connection))
        found.sort(key=lambda one: one.applied_at)
        return found

    def forget_old(self, now: float) -> None:
        """Forget the requests that are older than the time set."""
        while self._by_key:
            oldest = next(iter(self._by_key.values()))
            if now - oldest.applied_at <= self._seconds:
                return
            self._remove(oldest.key)

    def _find_all(self, connection: LiveConnection) -> Iterator[AppliedRequest]:
        if self._by_name:
            for name in find_keys(connection):
                yield from self._by_name.get(name, {}).values()
        for applied in self._others.values():
            request = applied.request
            if is_named(connection, request.target, request.value, self._node_id):
                yield applied

    def _group_of(self, applied: AppliedRequest) -> dict[_Key, AppliedRequest]:
        request = applied.request
        if request.target in (Target.ADDRESS, Target.NODE, Target.ALL):
            return self._others
        return self._by_name.setdefault((request.target, request.value), {})

    def _remove(self, key: _Key) -> None:
        applied = self._by_key.pop(key, None)
        if applied is None:
            return
        group = self._group_of(applied)
        del group[key]
        if not group and group is not self._others:
            del self._by_name[applied.request.target, applied.request.value]
