"""Share a pool between nodes in PostgreSQL."""

import asyncio
import logging
import time
from collections.abc import Collection, Sequence
from typing import Any
from urllib.parse import unquote

from django.db import DataError, InterfaceError, OperationalError
from django.db import Error as DatabaseError

from connections.bus import Bus
from connections.deadline import deadline
from connections.exceptions import DatabaseUnavailable, PoolUnavailable
from connections.models.alias import get_connection
from connections.pool.base import Slot
from connections.pool.codec import encode_word
from connections.pool.leased import LeasedPool
from connections.pool.steps import Answer, PoolSteps, Request
from connections.storage.database import Database
from connections.storage.failures import AWAY, describe_failure
from connections.units import Clock

logger = logging.getLogger(__name__)

Row = tuple[Any, ...]

_PREPARE, _RECOVER = "prepare", "recover"
_MOST_PREPARATIONS = 5

_MOST_SLOTS = 2**31 - 1
"""The largest limit that an integer of PostgreSQL holds; no total is as large."""


def delete_tombstones(client_ids: Sequence[str]) -> None:
    """Delete the traces of slots of clients without open connections."""
    with get_connection().cursor() as cursor:
        cursor.execute(
            "DELETE FROM connections_pool_slot"
            " WHERE client_id = ANY(%s) AND taken_for <> ''",
            [list(map(encode_word, client_ids))],
        )


class PostgresPool(LeasedPool):
    """
    A pool in PostgreSQL; every step is one statement.

    The tables, the locks and the functions are in scripts/postgres_1.sql.
    """

    def __init__(
        self,
        database: Database,
        *,
        node_id: str,
        bus: Bus,
        max_total: int,
        lease_seconds: float,
        evict_oldest: bool = True,
        prefix: str = "orchestra:bus:",
        timeout_seconds: float = 1,
        clock: Clock = time.monotonic,
    ) -> None:
        steps = PostgresSteps(
            database,
            node_id=node_id,
            max_total=max_total,
            lease_seconds=lease_seconds,
            channels=prefix,
            timeout_seconds=timeout_seconds,
        )
        super().__init__(
            steps,
            bus=bus,
            max_total=max_total,
            lease_seconds=lease_seconds,
            evict_oldest=evict_oldest,
            clock=clock,
        )


class PostgresSteps(PoolSteps):
    """The functions of the pool, each called in a thread of the database."""

    def __init__(
        self,
        database: Database,
        *,
        node_id: str,
        max_total: int,
        lease_seconds: float,
        channels: str,
        timeout_seconds: float,
    ) -> None:
        self._database = database
        self._node = encode_word(node_id)
        self._max_total = max_total
        self._lease = f"{lease_seconds} seconds"
        self._channels = channels
        self._timeout_seconds = timeout_seconds
        self._is_closed = False
        # Calls that nobody awaits any more, and that may still take slots.
        self._abandoned: set[_Call] = set()
        # Near the limit the first attempt without the total's lock is a waste.
        self._locks_total = False

    async def acquire(self, request: Request) -> Answer:
        slot = request.slot
        locks_total = self._locks_total
        while True:
            (first, *given_up) = await self._call(
                "acquire",
                *(self._lease, self._max_total, self._channels, request.evicts),
                *(slot.connection_id, encode_word(slot.client_id), self._node),
                *(slot.opened_at, min(slot.limit, _MOST_SLOTS)),
                *(request.replaces, request.own_count),
                *(request.has_reported, list(request.releasing), locks_total),
            )
            status = first[0]
            if status != "total":
                break
            locks_total = True
        self._locks_total = locks_total and status == "full"
        if status in ("evicted", "replaced"):
            return Answer(status="taken", reason=status)
        return Answer(
            status=status,
            given_up=tuple(_read_slot(slot.client_id, row) for row in given_up),
        )

    async def renew(
        self, slots: Sequence[Slot], known: Collection[str]
    ) -> dict[str, str]:
        ids = [slot.connection_id for slot in slots]
        return dict(
            await self._call("renew", self._lease, self._node, ids, list(known))
        )

    async def retake(self, mode: str, slots: Sequence[Slot]) -> dict[str, str]:
        if not slots:
            return {}
        return dict(
            await self._call(
                "retake",
                *(self._lease, self._max_total, self._channels, self._node),
                mode == "late",
                [slot.connection_id for slot in slots],
                [encode_word(slot.client_id) for slot in slots],
                [slot.opened_at for slot in slots],
                [min(slot.limit, _MOST_SLOTS) for slot in slots],
            )
        )

    async def release(self, slots: Sequence[Slot]) -> None:
        self._abandoned = {call for call in self._abandoned if call.is_running}
        if self._abandoned:
            raise PoolUnavailable("a step is under way that may take the slots again")
        await self._call("release", [slot.connection_id for slot in slots])

    async def get_usage(self) -> tuple[int, int, str]:
        ((slots, clients, state, lost),) = await self._call("usage", self._lease)
        if lost:
            await self._prepare(lost)
            state = "recovering"
        elif state == "settling":
            await self._call("settle", self._lease, self._max_total, self._channels)
        return slots, clients, state

    async def check_store(self) -> None:
        """Do nothing: PostgreSQL keeps what it has."""

    async def close(self) -> None:
        if self._is_closed:
            return
        try:
            await self._call("leave", self._node)
        except PoolUnavailable as exc:
            logger.info(
                "The lease of this node ends by itself: %s",
                exc,
                extra={"event": "lease_left"},
            )
        self._is_closed = True
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._database.close()
        except TimeoutError:
            self._database.abandon()

    async def _prepare(self, lost: str) -> None:
        await self._run("prepare", self._lease, self._channels, self._node, lost)

    async def _call(self, name: str, *arguments: Any) -> list[Row]:
        """
        Run a step, after what it finds to be due.

        Raises:
            PoolUnavailable: as _run().
        """
        for _ in range(_MOST_PREPARATIONS):
            rows = await self._run(name, *arguments)
            asked = rows[0][:2] if rows else ()
            if _PREPARE not in asked and _RECOVER not in asked:
                return rows
            await self._prepare("some slots" if _RECOVER in asked else "")
        raise PoolUnavailable("leases end faster than they can be renewed")

    async def _run(self, name: str, *arguments: Any) -> list[Row]:
        """
        Call a function.

        Raises:
            PoolUnavailable: no answer in time, or PostgreSQL refused to run it.
            DataError: it cannot read an argument, which concerns this call alone.
        """
        if self._is_closed:
            raise PoolUnavailable("the pool is closed")
        call = _Call(name, arguments)
        try:
            async with deadline(self._timeout_seconds):
                return await self._database.run_briefly(call.run)
        except TimeoutError as exc:
            raise PoolUnavailable("PostgreSQL did not answer in time") from exc
        except DataError:
            raise
        except (DatabaseError, DatabaseUnavailable) as exc:
            cause = exc.__cause__ if isinstance(exc, DatabaseUnavailable) else exc
            text = describe_failure(cause) if isinstance(cause, Exception) else ""
            raise PoolUnavailable(f"PostgreSQL {text}: {exc}") from exc
        finally:
            call.is_awaited = False
            if call.is_running:
                self._abandoned.add(call)


class _Call:
    """One call of a function, in a thread."""

    def __init__(self, name: str, arguments: Sequence[Any]) -> None:
        self.is_awaited = True
        self.is_running = False
        self._name = name
        self._arguments = arguments

    def run(self) -> list[Row]:
        self.is_running = True
        try:
            # A caller that gave up before this thread began does not wait with the
            # release of the slot.
            return self._run() if self.is_awaited else []
        finally:
            self.is_running = False

    def _run(self) -> list[Row]:
        try:
            return self._execute()
        except (OperationalError, InterfaceError) as exc:
            connection = get_connection()
            if describe_failure(exc) != AWAY or connection.in_atomic_block:
                raise
            # The connection broke while it was idle: a restart, or a pooler. Each
            # step may be repeated, but not after its slot was released.
            connection.close()
            if not self.is_awaited:
                raise
            return self._execute()

    def _execute(self) -> list[Row]:
        places = ", ".join(f"%s::{one}" for one in _TYPES[self._name])
        sql = f"SELECT * FROM connections_pool_{self._name}_1({places})"
        with get_connection().cursor() as cursor:
            cursor.execute(sql, self._arguments)
            return [tuple(row) for row in cursor.fetchall()]


_TYPES = {
    "prepare": ("interval", "text", "text", "text"),
    "acquire": (
        *("interval", "integer", "text", "boolean", "text", "text", "text", "float8"),
        *("integer", "text", "integer", "boolean", "text[]", "boolean"),
    ),
    "renew": ("interval", "text", "text[]", "text[]"),
    "retake": (
        *("interval", "integer", "text", "text", "boolean", "text[]", "text[]"),
        *("float8[]", "integer[]"),
    ),
    "release": ("text[]",),
    "usage": ("interval",),
    "settle": ("interval", "integer", "text"),
    "leave": ("text",),
}
"""The types of the arguments of each function."""


def _read_slot(client_id: str, row: Row) -> Slot:
    _, connection_id, opened_at, limit, node = row
    return Slot(
        connection_id=connection_id,
        client_id=client_id,
        node_id=unquote(node),
        opened_at=opened_at,
        limit=limit,
    )
