"""Keep the bans of the database in memory, so that handshakes need no query."""

import logging
import math
from collections.abc import Iterable
from typing import Any

from django.utils import timezone

from connections.models import Ban
from connections.net.addresses import parse_address, parse_network
from connections.units import Clock

logger = logging.getLogger(__name__)

Version = tuple[Any, ...]


class Bans:
    """The bans in force, by client, user and network; a look-up uses hashes alone."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # The end of each ban, in seconds of the clock.
        self._named: dict[tuple[str, str], float] = {}
        # The network numbers, by IP version and prefix length.
        self._networks: dict[tuple[int, int], dict[int, float]] = {}

    def __len__(self) -> int:
        return len(self._named) + sum(map(len, self._networks.values()))

    def load(self, known: Version | None) -> Version:
        """
        Read the bans in force unless their version is known; return the version.

        Runs in a thread of the database, because many bans take long: where bans
        were only added, it reads those alone. It reads the version first, so that a
        change in between is read again.
        """
        version = Ban.objects.find_version()
        if version == known:
            return version
        added = None if known is None else Ban.objects.find_added(known, version)
        if added is None:
            self.replace(Ban.objects.in_force().only("target", "value", "until"))
        else:
            self.add(added)
        return version

    def replace(self, bans: Iterable[Ban]) -> None:
        """Replace all bans by these."""
        self._take(bans, {}, {})

    def add(self, bans: Iterable[Ban]) -> None:
        """Add bans to those that are known."""
        networks = {key: dict(same) for key, same in self._networks.items()}
        self._take(bans, dict(self._named), networks)

    def _take(
        self,
        bans: Iterable[Ban],
        named: dict[tuple[str, str], float],
        networks: dict[tuple[int, int], dict[int, float]],
    ) -> None:
        """Add bans to collections that no other thread uses, and use those then."""
        now, moment = self._clock(), timezone.now()
        for ban in bans:
            ends_at = math.inf
            if ban.until is not None:
                ends_at = now + (ban.until - moment).total_seconds()
            if ban.target != Ban.Target.ADDRESS:
                named[ban.target, ban.value] = ends_at
                continue
            try:
                network = parse_network(ban.value)
            except ValueError as exc:
                # It was written past the model; the other bans still count.
                logger.error("A ban is ignored: %s", exc, extra={"event": "ban_bad"})
                continue
            same = networks.setdefault((network.version, network.prefixlen), {})
            same[int(network.network_address)] = ends_at
        self._named, self._networks = named, networks

    def has_ban_on(
        self, *, client_id: str = "", user_id: object = None, address: str = ""
    ) -> bool:
        """Return True if a ban in force names any of these."""
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
