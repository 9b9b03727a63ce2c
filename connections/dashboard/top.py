"""The clients, addresses and routes with the most connections, messages and errors."""

from typing import Any
from urllib.parse import urlencode

from connections.dashboard.charts.scales import format_bytes, format_count
from connections.dashboard.filters import Selection
from connections.dashboard.map import list_names
from connections.dashboard.sites import make_page_url
from connections.dashboard.snapshot import Snapshot
from connections.node.top import KINDS, TopRow, rank

MINUTES = 5
_LIMIT = 5
_TITLES = {"client": "Clients", "address": "Addresses", "route": "Routes"}


def describe_top(snapshot: Snapshot, selection: Selection) -> dict[str, Any]:
    """Return the ranks for the panel, of one node or all."""
    wanted = [node_id for node_id in snapshot.seen if selection.node in ("", node_id)]
    reports = [snapshot.tops[one] for one in wanted if one in snapshot.tops]
    names = list_names(snapshot)
    tops = []
    for kind in KINDS:
        found = rank(
            reports,
            kind,
            selection.top,
            minutes=MINUTES,
            limit=_LIMIT,
            wall=snapshot.taken_at.timestamp,
        )
        total = max(found.total, 1)
        tops.append(
            {
                "title": _TITLES[kind],
                "rows": [
                    {
                        "key": row.key,
                        "amount": show_amount(row, selection.top),
                        "part": f"{min(100, 100 * row.count / total):.0f} %",
                        "url": _make_url(kind, row.key, selection),
                    }
                    for row in found.rows
                ],
                "floor": format_count(found.floor) if found.floor else "",
            }
        )
    missing = [names[one] for one in wanted if one not in snapshot.tops]
    return {"tops": tops, "minutes": MINUTES, "missing": ", ".join(missing)}


def show_amount(row: TopRow, measure: str) -> str:
    """Return a count as text; if it is not exact, its bounds."""
    show = format_bytes if measure == "bytes" else format_count
    low, high = show(row.count - row.error), show(row.count)
    return high if low == high else f"{low} to {high}"


def _make_url(kind: str, key: str, selection: Selection) -> str:
    if kind == "route":
        return f"?{selection.query(route=key)}"
    listing = make_page_url("connections_connection_changelist")
    if not listing:
        return ""
    query = {"client_id": key, "state": "all"} if kind == "client" else {"q": key}
    return f"{listing}?{urlencode(query)}"
