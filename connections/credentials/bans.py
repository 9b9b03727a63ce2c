"""The bans of the database, in memory: asked at every handshake without a query."""

import math
from collections.abc import Iterable
from typing import Any

from django.utils import timezone

from connections.addresses import parse_address, parse_network
from connections.models import Ban
from connections.units import Clock

Version = tuple[Any, ...]


class Bans:
    """Who is kept out, by client, user and network; the look-up is by hash alone."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # When each ends, in seconds of the clock.
        self._named: dict[tuple[str, str], float] = {}
        # By family and prefix length, the numbers of networks.
        self._networks: dict[tuple[int, int], dict[int, float]] = {}

    def __len__(self) -> int:
        return len(self._named) + sum(map(len, self._networks.values()))

    def replace(self, bans: Iterable[Ban]) -> None:
        """Forget all, and know these."""
        self._named.clear()
        self._networks.clear()
        now, moment = self._clock(), timezone.now()
        for ban in bans:
            ends_at = math.inf
            if ban.until is not None:
                ends_at = now + (ban.until - moment).total_seconds()
            if ban.target != Ban.Target.ADDRESS:
                self._named[ban.target, ban.value] = ends_at
                continue
            network = parse_network(ban.value)
            same = self._networks.setdefault((network.version, network.prefixlen), {})
            same[int(network.network_address)] = ends_at

    def holds_out(
        self, *, client_id: str = "", user_id: object = None, address: str = ""
    ) -> bool:
        """Tell whether a ban stands against any of these."""
        now = self._clock()
        if self._named:
            clients, users = Ban.Target.CLIENT, Ban.Target.USER
            if self._named.get((clients, client_id), -math.inf) > now:
                return True
            if self._named.get((users, str(user_id)), -math.inf) > now:
                return True
        return bool(self._networks) and self._is_network_banned(address, now)

    def _is_network_banned(self, address: str, now: float) -> bool:
        parsed = parse_address(address)
        if parsed is None:
            return False
        number = int(parsed)
        for (version, length), networks in self._networks.items():
            if version == parsed.version:
                host_bits = parsed.max_prefixlen - length
                start = number >> host_bits << host_bits
                if networks.get(start, -math.inf) > now:
                    return True
        return False


def read_bans(known: Version | None) -> tuple[Version, list[Ban] | None]:
    """
    Return the bans in force and their version; None if that one is known.

    The version is read first: what changes in between is read again.
    """
    version = Ban.objects.find_version()
    if version == known:
        return version, None
    return version, list(Ban.objects.in_force().only("target", "value", "until"))
