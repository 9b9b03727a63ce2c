"""Share a pool between nodes in Redis. Imported only where REDIS_URL is set."""

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from connections.background import BackgroundTasks
from connections.exceptions import ClientFull, PoolFull, PoolUnavailable
from connections.pool.base import Renewal, SharedPool, Slot, Usage
from connections.pool.codec import encode_moment, encode_word, read_slots
from connections.pool.index import HeldSlots
from connections.redis.bus import Message, RedisBus
from connections.redis.clients import ask, close_client, make_client
from connections.units import Clock

logger = logging.getLogger(__name__)

_SCRIPTS = Path(__file__).with_name("scripts")
_KEYS = ("leases", "slots", "ages", "clients", "tombs", "state", "suspects")

_SLOTS_PER_CALL = 200
"""Bounds how long one script blocks Redis: a few milliseconds."""

_COMMANDS_AT_ONCE = 8
_RELEASE_RETRY_SECONDS = 0.5


class RedisPool(SharedPool):
    """
    Slots are leases in Redis; every step is one script, timed by Redis alone.

    The states of the pool and of a slot, and their transitions, are at the top of
    scripts/prelude.lua. Every script may be repeated. A command that takes longer
    than timeout_seconds raises PoolUnavailable; whether Redis ran it is unknown
    then, and a repetition, release() or the end of the lease puts it right. The
    pool closes the bus.
    """

    def __init__(
        self,
        url: str,
        *,
        bus: RedisBus,
        max_total: int,
        lease_seconds: float,
        evict_oldest: bool = True,
        prefix: str = "orchestra",
        timeout_seconds: float = 1,
        clock: Clock = time.monotonic,
    ) -> None:
        self._max_total = max_total
        self._evict_oldest = evict_oldest
        self._lease_seconds = lease_seconds
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._client = make_client(url, timeout_seconds=timeout_seconds)
        self._keys = [f"{{{prefix}:pool}}:{name}" for name in _KEYS]
        self._channels = bus.channels
        self._scripts = _load_scripts(self._client)
        self._gate = asyncio.Semaphore(_COMMANDS_AT_ONCE)
        self._failed_at = float("-inf")
        # Until then acquire() reports its slots in the first call: the pool was
        # recovering lately.
        self._reports_until = float("-inf")
        # The slots of this node, which it reports to a recovering pool.
        self._held = HeldSlots()
        # Connections whose acquire() is under way; the reason, where their slot was
        # taken away again before the reply arrived.
        self._acquiring: dict[str, str] = {}
        # Slots whose release is pending, and since when.
        self._releasing = HeldSlots()
        self._released_at: dict[str, float] = {}
        self._release_due = asyncio.Event()
        # Slots released during a retake, which may just have taken them again.
        self._retaking = 0
        self._released_meanwhile: set[str] = set()
        # Keeps retakes and releases in order on their way to Redis.
        self._ordered = asyncio.Lock()
        self._tasks = BackgroundTasks()
        self._has_started = False
        self._bus = bus
        bus.on_message("taken", self._on_taken)
        bus.on_message("recovering", lambda message: self._renew_soon())
        bus.on_return(self._renew_soon)

    # The contract

    async def acquire(
        self, slot: Slot, *, replaces: str | None = None
    ) -> tuple[Slot, ...]:
        self._start()
        self._forget_release(slot.connection_id)
        self._acquiring[slot.connection_id] = ""
        try:
            status, *rest = await self._ask_for(slot, replaces)
        except BaseException:
            # Whether Redis took the slot is unknown, and its caller is gone.
            self.release(slot.connection_id)
            raise
        finally:
            taken_early = self._acquiring.pop(slot.connection_id, "")
        if status == "full":
            raise PoolFull(self._max_total)
        if status == "client_full":
            raise ClientFull(slot.client_id, slot.limit)
        self._held.add(slot)
        if status == "taken":
            taken_early, rest = rest[0], []
        if taken_early:
            report = self._report_taken(slot.connection_id, taken_early)
            self._tasks.start(report, "The report of a slot taken away")
        given_up = tuple(read_slots(slot.client_id, rest))
        for one in given_up:
            self._held.remove(one.connection_id)
        return given_up

    async def renew(self, slots: Sequence[Slot]) -> Renewal:
        self._start()
        by_id = {slot.connection_id: slot for slot in slots}
        with self._while_retaking():
            reasons: dict[str, str] = {}
            # Without slots, the call still checks that Redis answers.
            for ids in list(_in_chunks(list(by_id))) or [[]]:
                reasons |= _in_pairs(await self._run("renew", ids))
            missing = [by_id[one] for one in reasons if reasons[one] == "missing"]
            for slot in missing:
                del reasons[slot.connection_id]
            # Newest first: where there is no room for all, the oldest are lost.
            missing.sort(key=lambda slot: slot.order, reverse=True)
            reasons |= await self._retake("keep", missing)
            return self._apply_renewal(slots, reasons)

    async def take_late(self, slots: Sequence[Slot]) -> Renewal:
        self._start()
        with self._while_retaking():
            for slot in slots:
                self._forget_release(slot.connection_id)
            in_order = sorted(slots, key=lambda slot: slot.order)
            return self._apply_renewal(slots, await self._retake("late", in_order))

    def release(self, connection_id: str) -> None:
        slot = self._held.remove(connection_id) or _unknown_slot(connection_id)
        self._releasing.add(slot)
        self._released_at[connection_id] = self._clock()
        self._release_due.set()
        if self._retaking:
            self._released_meanwhile.add(connection_id)

    def get_held_ids(self) -> list[str]:
        return self._held.get_ids()

    async def get_usage(self) -> Usage:
        slots, clients, is_recovering = await self._run("usage", [])
        return Usage(
            slots=slots,
            clients=clients,
            limit=self._max_total,
            is_recovering=bool(is_recovering),
        )

    async def close(self) -> None:
        await self._tasks.stop()
        try:
            await self._release_pending()
        except PoolUnavailable:
            logger.warning(
                "%s slots could not be released; their leases end by themselves",
                len(self._releasing),
                extra={"event": "release_failed"},
            )
        await self._bus.close()
        await close_client(self._client)

    # Commands

    async def _run(self, name: str, arguments: Sequence[Any]) -> Any:
        """
        Run a script.

        Raises:
            PoolUnavailable: no answer in time, or Redis refused to run it.
        """
        asked_at = self._clock()
        async with self._gate:
            if self._failed_at >= asked_at:
                # Another command failed while this one waited.
                raise PoolUnavailable("Redis did not answer in time")
            lease_ms = round(self._lease_seconds * 1000)
            try:
                command = self._scripts[name](
                    keys=self._keys,
                    args=[lease_ms, self._max_total, self._channels, *arguments],
                )
                return await ask(command, self._timeout_seconds)
            except (RedisError, OSError, TimeoutError) as exc:
                self._failed_at = self._clock()
                raise PoolUnavailable(
                    str(exc) or "Redis did not answer in time"
                ) from exc

    async def _ask_for(self, slot: Slot, replaces: str | None) -> Any:
        """Run acquire, again with this node's slots where the pool is recovering."""
        answer = ["tell"]
        if self._clock() >= self._reports_until:
            arguments = self._arguments_of_acquire(slot, replaces, reports_own=False)
            answer = await self._run("acquire", arguments)
        if answer == ["tell"]:
            self._reports_until = self._clock() + self._lease_seconds / 3
            arguments = self._arguments_of_acquire(slot, replaces, reports_own=True)
            answer = await self._run("acquire", arguments)
        return answer

    def _arguments_of_acquire(
        self, slot: Slot, replaces: str | None, *, reports_own: bool
    ) -> list[Any]:
        # Slots that this client released a moment ago may still be in Redis.
        releasing = self._releasing.of_client(slot.client_id)
        arguments: list[Any] = [
            int(self._evict_oldest),
            slot.connection_id,
            encode_word(slot.client_id),
            encode_word(slot.node_id),
            encode_moment(slot.opened_at),
            slot.limit,
            replaces or "-",
            len(self._held),
            int(reports_own),
            len(releasing),
            *(one.connection_id for one in releasing),
        ]
        held_by_client = self._held.of_client(slot.client_id) if reports_own else []
        # A client below its limit here has no slot evicted here.
        for held in held_by_client if len(held_by_client) >= slot.limit else ():
            moment = encode_moment(held.opened_at)
            arguments += (held.connection_id, moment, held.limit)
        return arguments

    async def _retake(self, mode: str, slots: Sequence[Slot]) -> dict[str, str]:
        """Run retake; return the ids that were not taken, and why."""
        reasons: dict[str, str] = {}
        for chunk in _in_chunks(slots):
            arguments: list[Any] = [mode]
            for slot in chunk:
                if slot.connection_id not in self._released_meanwhile:
                    arguments += (
                        slot.connection_id,
                        encode_word(slot.client_id),
                        encode_word(slot.node_id),
                        encode_moment(slot.opened_at),
                        slot.limit,
                    )
            async with self._ordered:
                reasons |= _in_pairs(await self._run("retake", arguments))
        return reasons

    def _apply_renewal(self, slots: Iterable[Slot], reasons: dict[str, str]) -> Renewal:
        """Update the held slots by the result of a renewal, and return it."""
        for slot in slots:
            if slot.connection_id in self._released_meanwhile:
                self.release(slot.connection_id)
            elif slot.connection_id not in reasons:
                self._held.add(slot)
        for connection_id in reasons:
            self._held.remove(connection_id)
        return _make_renewal(reasons)

    @contextmanager
    def _while_retaking(self) -> Iterator[None]:
        self._retaking += 1
        try:
            yield
        finally:
            self._retaking -= 1
            if not self._retaking:
                self._released_meanwhile.clear()

    # In the background

    def _start(self) -> None:
        if not self._has_started:
            self._has_started = True
            self._tasks.start(self._bus.start(), "The bus between nodes")
            self._tasks.start(self._release_forever(), "The release of slots")

    async def _release_forever(self) -> None:
        while True:
            await self._release_due.wait()
            try:
                await self._release_pending()
            except PoolUnavailable:
                await asyncio.sleep(_RELEASE_RETRY_SECONDS)

    async def _release_pending(self) -> None:
        """
        Release the pending slots whose lease has not ended.

        Raises:
            PoolUnavailable: some are still pending.
        """
        while self._released_at:
            expired_before = self._clock() - self._lease_seconds
            released: dict[str, float] = {}
            for connection_id, since in list(self._released_at.items()):
                if since <= expired_before:
                    self._forget_release(connection_id)
                elif len(released) < _SLOTS_PER_CALL:
                    released[connection_id] = since
            if released:
                async with self._ordered:
                    await self._run("release", list(released))
            for connection_id, since in released.items():
                if self._released_at.get(connection_id) == since:
                    self._forget_release(connection_id)
        self._release_due.clear()

    def _forget_release(self, connection_id: str) -> None:
        self._releasing.remove(connection_id)
        self._released_at.pop(connection_id, None)

    def _renew_soon(self) -> None:
        if len(self._held):
            self._tasks.start(self._renew_held(), "A renewal out of turn")

    async def _renew_held(self) -> None:
        """Renew now, for a recovering pool or after a gap in the messages."""
        try:
            renewal = await self.renew(list(self._held))
        except PoolUnavailable:
            return
        if renewal != Renewal():
            self.on_taken(renewal)

    def _on_taken(self, message: Message) -> None:
        """Report slots that a script, of this or another node, took away."""
        ids = [str(one) for one in message["ids"]]
        reason = str(message["reason"])
        for connection_id in ids:
            if connection_id in self._acquiring:
                self._acquiring[connection_id] = reason
        here = [one for one in ids if one in self._held]
        for connection_id in here:
            self._held.remove(connection_id)
        if here:
            self.on_taken(_make_renewal(dict.fromkeys(here, reason)))

    async def _report_taken(self, connection_id: str, reason: str) -> None:
        """Report a slot that was taken away before the reply of its acquire()."""
        # The caller of acquire() continues first.
        await asyncio.sleep(0)
        if self._held.remove(connection_id) is not None:
            self.on_taken(_make_renewal({connection_id: reason}))


def _load_scripts(client: Any) -> dict[str, AsyncScript]:
    prelude = (_SCRIPTS / "prelude.lua").read_text()
    return {
        path.stem: client.register_script(prelude + path.read_text())
        for path in sorted(_SCRIPTS.glob("*.lua"))
        if path.stem != "prelude"
    }


def _unknown_slot(connection_id: str) -> Slot:
    """Return a slot of which only the connection is known."""
    return Slot(
        connection_id=connection_id, client_id="", node_id="", opened_at=0, limit=0
    )


def _make_renewal(reasons: dict[str, str]) -> Renewal:
    def ids_of(reason: str) -> tuple[str, ...]:
        return tuple(one for one, why in reasons.items() if why == reason)

    return Renewal(
        evicted=ids_of("evicted"), replaced=ids_of("replaced"), lost=ids_of("lost")
    )


def _in_chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), _SLOTS_PER_CALL):
        yield items[start : start + _SLOTS_PER_CALL]


def _in_pairs(words: Sequence[str]) -> dict[str, str]:
    return dict(zip(words[::2], words[1::2], strict=True))
