"""Take and renew the slots of a node's connections, and end those that lose one."""

from collections.abc import Iterable, Sequence
from functools import partial

from connections import close_codes
from connections.close_codes import CloseReason
from connections.config.enforcement import FAR_OVER
from connections.exceptions import ClientFull, PoolFull
from connections.hub.connection import LiveConnection
from connections.hub.hub import Hub
from connections.models import CloseRequest
from connections.node.observer import Observer
from connections.node.refusals import Refusals
from connections.pool.base import Pool, Renewal, Slot

_ENDS = "The end of connections"
_MOST_AT_ONCE = 100
"""A client with a lowered limit may lose thousands, whose ends would stop the loop."""


class NodeSlots:
    """
    The slots of the connections of one node.

    The pool decides in the same way whether a limit is enforced or observed. The
    mode of the connection that would be refused or ended decides what happens: an
    observed one stays open without a slot.
    """

    def __init__(
        self,
        *,
        node_id: str,
        hub: Hub,
        pool: Pool,
        observer: Observer,
        refusals: Refusals | None = None,
    ) -> None:
        self._node_id = node_id
        self._hub = hub
        self._pool = pool
        self._observer = observer
        self._refusals = refusals or Refusals(None)
        # Connections that wait for a slot; how those ended that lost it meanwhile.
        self._waiting: set[str] = set()
        self._lost_early: dict[str, CloseReason] = {}

    async def take(
        self, connection: LiveConnection, replaces: str | None
    ) -> Sequence[Slot]:
        """
        Take a slot for a connection; return the slots that were given up for it.

        The caller adds the connection to the hub before anything else runs: another
        one may take the slot at once, and ends whom it finds there.

        Raises:
            PoolFull, ClientFull: the limit is enforced, or far exceeded.
            PoolUnavailable: as Pool.acquire().
        """
        try:
            return await self._take(connection, replaces)
        except ClientFull:
            self._refusals.record(connection, close_codes.CLIENT_FULL)
            raise
        except PoolFull:
            self._refusals.record(connection, close_codes.POOL_FULL)
            raise

    async def _take(
        self, connection: LiveConnection, replaces: str | None
    ) -> Sequence[Slot]:
        self._require_not_far_over(connection)
        self._end_slotless(connection, replaces)
        if not self._observer.needs_slot(connection):
            return ()
        slot = self._make_slot(connection)
        self._waiting.add(slot.connection_id)
        try:
            taken = await self._pool.acquire(slot, replaces=replaces)
        except ClientFull:
            if not self._observer.admits(connection, "clients"):
                raise
            return ()
        except PoolFull:
            if not self._observer.admits(connection, "total"):
                raise
            return ()
        except BaseException:
            self._lost_early.pop(slot.connection_id, None)
            raise
        finally:
            self._waiting.discard(slot.connection_id)
        connection.flight.record("slot_taken")
        connection.slot = slot
        return taken

    def end_taken(
        self, connection: LiveConnection, taken: Sequence[Slot], replaces: str | None
    ) -> None:
        """
        End the connections whose slots were given up for another one.

        The other one ends too if it lost its slot before the answer of the pool came.
        """
        if early := self._lost_early.pop(connection.connection_id, None):
            _end(connection, early)
        for given_up in taken:
            is_replaced = given_up.connection_id == replaces
            close_reason = close_codes.REPLACED if is_replaced else close_codes.EVICTED
            connection.flight.record(
                f"has_{close_reason.reason}", given_up.connection_id
            )
        evicted = [one.connection_id for one in taken if one.connection_id != replaces]
        if len(taken) > len(evicted) and replaces is not None:
            self._end_now(replaces, close_codes.REPLACED)
        for connection_id in evicted[:_MOST_AT_ONCE]:
            self._end_now(connection_id, close_codes.EVICTED)
        if rest := evicted[_MOST_AT_ONCE:]:
            work = self._report_evicted(rest)
            self._hub.sending.start(work, "The end of evicted connections")

    async def renew(self) -> bool:
        """
        Renew the leases of all slots, and end connections that lost theirs.

        Returns False if a connection could not be ended.

        Raises:
            PoolUnavailable: the pool did not answer in time.
        """
        slots = [one.slot for one in self._hub if one.slot and one.close_reason is None]
        return await self._end_lost(await self._pool.renew(slots))

    def end_lost(self, renewal: Renewal) -> None:
        """Start to end the connections whose slots the pool took between renewals."""
        self._hub.sending.start(self._report_lost(renewal), "The end of lost slots")

    async def _report_lost(self, renewal: Renewal) -> None:
        await self._end_lost(renewal)

    async def _report_evicted(self, connection_ids: Sequence[str]) -> None:
        await self._end_all(connection_ids, close_codes.EVICTED)

    def _end_now(self, connection_id: str, close_reason: CloseReason) -> None:
        held = self._find(connection_id, close_reason)
        if held is not None:
            end = partial(_end, close_reason=close_reason)
            self._hub.passes.attempt(_ENDS, end, held)

    def _find(
        self, connection_id: str, close_reason: CloseReason
    ) -> LiveConnection | None:
        """Return a connection; remember the end of one that waits for its slot."""
        if connection_id in self._waiting:
            self._lost_early[connection_id] = close_reason
        return self._hub.get(connection_id)

    async def _end_lost(self, renewal: Renewal) -> bool:
        """End the connections whose slots another node took, or that were lost."""
        is_whole = await self._end_all(renewal.evicted, close_codes.EVICTED)
        is_whole &= await self._end_all(renewal.replaced, close_codes.REPLACED)
        return is_whole & await self._end_all(renewal.lost, close_codes.POOL_FULL)

    async def _end_all(
        self, connection_ids: Iterable[str], close_reason: CloseReason
    ) -> bool:
        found = [self._find(one, close_reason) for one in connection_ids]
        return await self._hub.for_each_in_slices(
            _ENDS,
            lambda connection: _end(connection, close_reason),
            [one for one in found if one is not None],
        )

    def _end_slotless(self, connection: LiveConnection, replaces: str | None) -> None:
        """End a replaced connection whose slot an observed limit took away."""
        held = self._hub.get(replaces) if replaces else None
        if held is None or held.client_id != connection.client_id:
            return
        if held.would_have_ended and held.slot is None:
            held.end(close_codes.REPLACED)

    def _require_not_far_over(self, connection: LiveConnection) -> None:
        """
        Check the bound that holds while the limit of clients is observed.

        Raises:
            ClientFull: the client has ten times its limit on this node.
        """
        if "clients" not in connection.observed:
            return
        client_id, limit = connection.client_id, connection.limits
        most = FAR_OVER * limit.max_connections_per_client
        held = self._hub.select(CloseRequest.Target.CLIENT, client_id, self._node_id)
        if len(held) >= most:
            raise ClientFull(client_id, most)

    def _make_slot(self, connection: LiveConnection) -> Slot:
        return Slot(
            connection_id=connection.connection_id,
            client_id=connection.client_id,
            node_id=self._node_id,
            opened_at=connection.opened_at.timestamp(),
            limit=connection.limits.max_connections_per_client,
        )


def _end(connection: LiveConnection, close_reason: CloseReason) -> None:
    """End a connection that has lost its slot, unless its limit is observed."""
    if close_reason is close_codes.REPLACED:
        connection.end(close_reason)
    elif close_reason is close_codes.EVICTED:
        connection.end_for("clients", close_reason)
    else:
        observed = connection.observed
        # The pool does not say which of both limits left no room.
        is_total = "total" in observed or "clients" not in observed
        connection.end_for("total" if is_total else "clients", close_reason)
