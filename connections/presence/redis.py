"""Share presence between nodes in Redis. Imported only where REDIS_URL is set."""

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from connections.bus import Message
from connections.exceptions import PresenceUnavailable, RedisUnavailable
from connections.presence.base import (
    Change,
    PresenceStore,
    Renewal,
    read_delta,
)
from connections.redis.bus import RedisBus
from connections.redis.encryption import get_encryption_keys, make_cipher
from connections.redis.scripts import RedisScripts
from connections.units import Clock

_SCRIPTS = Path(__file__).with_name("scripts")
_KEYS = ("nodes", "due", "state", "")
_ROUNDS = 20
"""Renewals in a row that release the members of dead nodes; the next beat continues."""


class RedisStore(PresenceStore):
    """
    Members are entries in Redis; every step is one script, timed by Redis alone.

    scripts/prelude.lua describes the keys. Every script may be repeated. Without a
    bus the store only answers questions. After Redis lost its contents questions
    fail until the nodes have reported again.
    """

    is_shared = True

    def __init__(
        self,
        url: str,
        *,
        bus: RedisBus | None,
        lease_seconds: float,
        linger_seconds: float,
        max_members: int,
        beat_seconds: float = 1,
        prefix: str = "orchestra",
        timeout_seconds: float = 1,
        clock: Clock = time.monotonic,
    ) -> None:
        self._recover_ms = (round(2000 * beat_seconds), round(lease_seconds * 333))
        self._scripts = RedisScripts(
            url,
            _SCRIPTS,
            keys=[f"{{{prefix}:presence}}:{name}" for name in _KEYS],
            first_arguments=(
                round(lease_seconds * 1000),
                round(linger_seconds * 1000),
                max_members,
                bus.channels if bus else "",
            ),
            timeout_seconds=timeout_seconds,
            clock=clock,
        )
        self._generation: str | None = None
        self._cipher = make_cipher(get_encryption_keys())
        if bus is not None:
            bus.on_message("presence", self._on_message)
            bus.on_return(lambda: self.on_gap())

    async def renew(self, node_id: str, held: int) -> Renewal:
        for turn in range(_ROUNDS):
            recover_ms = self._recover_ms[self._generation is not None]
            arguments = (node_id, held, recover_ms)
            status, generation, is_more, online = await self._run("renew", arguments)
            self.online = online
            if turn == 0:
                renewal = Renewal(status)
                if self._generation not in (None, generation):
                    renewal = Renewal.LOST
                self._generation = generation
            if not is_more:
                break
        return renewal

    async def apply(
        self, node_id: str, changes: Sequence[Change]
    ) -> Collection[tuple[str, str]]:
        arguments = [node_id]
        for one in changes:
            operation = ("=" if one.is_quiet else "+") if one.is_present else "-"
            arguments += (operation, one.room, one.member, self._encode(one.data))
        is_leased, *refused = await self._run("apply", arguments)
        if not is_leased:
            raise PresenceUnavailable("the lease of this node has ended")
        return list(zip(refused[::2], refused[1::2], strict=True))

    async def get_present(self, room: str) -> Mapping[str, str]:
        found = await self._ask("present", (room,))
        members, data = found[::2], map(self._decode, found[1::2])
        return dict(zip(members, data, strict=True))

    async def find_present(self, room: str, members: Sequence[str]) -> set[str]:
        return set(await self._ask("find", (room, *members)))

    async def count(self, room: str) -> int:
        (members,) = await self._ask("count", (room,))
        return int(members)

    async def forget(self, members: Sequence[str]) -> None:
        cursor, is_begun = "0", False
        while not is_begun or cursor != "0":
            cursor = await self._run("forget", (cursor, *members))
            is_begun = True

    async def close(self) -> None:
        await self._scripts.close()

    async def _ask(self, name: str, arguments: Sequence[Any]) -> list[Any]:
        answer: list[Any]
        knows_all, *answer = await self._run(name, arguments)
        if not knows_all:
            raise PresenceUnavailable("the nodes have not yet reported to Redis")
        return answer

    async def _run(self, name: str, arguments: Sequence[Any]) -> Any:
        try:
            return await self._scripts.run(name, arguments)
        except RedisUnavailable as exc:
            raise PresenceUnavailable(str(exc)) from exc

    def _encode(self, data: str) -> str:
        if self._cipher is None or data == "{}":
            return data
        return self._cipher.encrypt(data.encode()).decode()

    def _decode(self, data: str) -> str:
        """Return public data; that of a key which is gone is empty."""
        if self._cipher is None or data == "{}":
            return data
        try:
            return self._cipher.decrypt(data.encode()).decode()
        except ValueError:
            return "{}"

    def _on_message(self, message: Message) -> None:
        room, delta = read_delta(message, self._decode)
        self.on_delta(room, delta)
