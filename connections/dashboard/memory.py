"""Describe the node of this process from memory, while the database fails."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from django.utils import timezone

from connections.dashboard.snapshot import Snapshot
from connections.metrics.counters import Totals
from connections.node.current import find_running
from connections.node.live_state import ConnectionState, read_states


def take_from_memory(number: int, before: Snapshot | None = None) -> Snapshot:
    """
    Return a snapshot of this process's node; it is empty in a process without one.

    Rates are those since the snapshot before.
    """
    moment = timezone.now()
    nodes: tuple[Any, ...] = ()
    seen: dict[str, list[ConnectionState]] = {}
    running = find_running()
    if running is not None and running[1].database is not None:
        own = running[1]
        row: Any = own.make_row()
        row.beat_age = timedelta(0)
        nodes = (row,)
        known = before.seen.get(own.node_id, ()) if before is not None else ()
        elapsed = (moment - before.taken_at).total_seconds() if before else None
        seen[own.node_id] = read_states(
            own.hub,
            own.config,
            own.clock(),
            is_draining=own.is_draining,
            before=_count_messages(known),
            elapsed=elapsed,
        )
    return Snapshot(
        number=number,
        taken_at=moment,
        nodes=nodes,
        seen=seen,
        tops={} if running is None else {running[1].node_id: running[1].top.describe()},
        recorded_nodes=frozenset(),
        is_from_memory=True,
    )


def add_own(snapshot: Snapshot, own: Snapshot) -> Snapshot:
    """Return a snapshot with the node of this process as it is in memory."""
    known = own.seen.keys()
    others = [node for node in snapshot.nodes if node.node_id not in known]
    seen = {name: some for name, some in snapshot.seen.items() if name not in known}
    return replace(
        snapshot,
        nodes=(*own.nodes, *others),
        seen={**own.seen, **seen},
        tops={**snapshot.tops, **own.tops},
        recorded_nodes=snapshot.recorded_nodes - known,
    )


def list_own_minutes(node_id: str) -> Sequence[Totals]:
    """Return the minutes that this process's node has not seen rolled up."""
    running = find_running()
    if running is None or node_id not in ("", running[1].node_id):
        return ()
    latest = running[1].meter.latest
    return (*latest["unrolled"], latest["minute"])


def _count_messages(
    states: Sequence[ConnectionState],
) -> dict[str, tuple[int, int]]:
    return {one.connection_id: (one.messages_in, one.messages_out) for one in states}
