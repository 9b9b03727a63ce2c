"""Details of one connection or client on the connection map."""

from collections.abc import Collection, Iterable
from typing import Any

from connections.actions.registry import ACTIONS, Target
from connections.dashboard.actions import make_url
from connections.dashboard.charts.cells import draw_row
from connections.dashboard.charts.scales import (
    NOTHING,
    format_bytes,
    format_count,
    format_seconds,
)
from connections.dashboard.map import STATES, list_names
from connections.dashboard.snapshot import Snapshot
from connections.models import Node
from connections.net.addresses import find_network, name_banned_network, parse_address
from connections.node.live_state import ConnectionState
from connections.units import from_timestamp, show_moment

_MOST_LISTED = 20
_WORDS = {state.value: word for state, word, _ in STATES}


def describe_connection(
    snapshot: Snapshot, node_id: str, one: ConnectionState, allowed: Collection[str]
) -> dict[str, Any]:
    """Return the facts of an open connection, as labels and texts."""
    opened_at = from_timestamp(one.opened_at)
    age_seconds = snapshot.taken_at.timestamp() - one.opened_at
    identity = [
        ("Client", one.client_id),
        ("Node", list_names(snapshot).get(node_id, node_id)),
        ("Route", one.route or NOTHING),
        ("Address", one.address or NOTHING),
    ]
    numbers = [
        ("Open for", f"{format_seconds(age_seconds)}, since {show_moment(opened_at)}"),
        ("Idle for", format_seconds(one.idle_seconds)),
        ("Messages", format_pair(one.messages_in, one.messages_out)),
        ("Rate", f"{format_pair(one.in_per_second, one.out_per_second)} /s"),
        ("Bytes", f"↓{format_bytes(one.bytes_in)} ↑{format_bytes(one.bytes_out)}"),
        ("Round trip", NOTHING if one.rtt_ms is None else f"{one.rtt_ms:g} ms"),
        ("Unsent", format_bytes(one.unsent_bytes)),
        ("Errors", str(one.errors)),
    ]
    return {
        "one": one,
        "state": _WORDS[one.state],
        "glyph": draw_row([(one.state, "")]),
        "facts": identity + numbers,
        "numbers": numbers,
        "actions": offer_for_connection(one, allowed),
    }


def describe_client(
    snapshot: Snapshot, client_id: str, region: str, allowed: Collection[str]
) -> dict[str, Any]:
    """Return a client's open connections, limited to a node or route if given."""
    connections = [
        one
        for node_id, some in snapshot.seen.items()
        for one in some
        if one.client_id == client_id and region in ("", node_id, one.route)
    ]
    now = snapshot.taken_at.timestamp()
    listed = [
        {
            "one": one,
            "state": _WORDS[one.state],
            "glyph": draw_row([(one.state, "")]),
            "age": format_seconds(now - one.opened_at),
            "idle": format_seconds(one.idle_seconds),
        }
        for one in connections[:_MOST_LISTED]
    ]
    return {
        "connections": listed,
        "count": len(connections),
        "actions": offer_for_client(client_id, allowed),
    }


def offer_for_connection(
    one: ConnectionState, allowed: Collection[str]
) -> list[dict[str, Any]]:
    """Return links to the permitted actions on a connection and its client."""
    offers = [("end", "End…", Target.CONNECTION, one.connection_id)]
    if one.token_id:
        offers.append(("revoke", "Revoke token…", Target.TOKEN, one.token_id))
    offers += _offer_bans(one.address)
    return [*_offer(offers, allowed), *offer_for_client(one.client_id, allowed)]


def _offer_bans(address: str) -> list[tuple[str, str, Target, str]]:
    """Return the bans of an address; for IPv6 that of its network comes first."""
    parsed = parse_address(address)
    if parsed is None:
        # Only the network of the address is recorded; nothing for an empty one.
        name = f"Ban network {address}…"
        is_network = find_network(address) is not None
        return [("ban", name, Target.ADDRESS, address)] if is_network else []
    offers = [("ban", "Ban address…", Target.ADDRESS, address)]
    if parsed.version == 6:
        network = name_banned_network(address)
        offers = [
            ("ban", f"Ban network {network}…", Target.ADDRESS, network),
            ("ban", "Ban address…", Target.ADDRESS, f"{parsed}/128"),
        ]
    return offers


def offer_for_client(client_id: str, allowed: Collection[str]) -> list[dict[str, Any]]:
    """Return links to the permitted actions on a client."""
    return _offer(
        [
            ("end-all", "End all of client…", Target.CLIENT, client_id),
            ("ban", "Ban client…", Target.CLIENT, client_id),
            ("notice", "Send notice…", Target.CLIENT, client_id),
        ],
        allowed,
    )


def offer_for_node(node: Node, allowed: Collection[str]) -> list[dict[str, Any]]:
    """Return links to the permitted actions on a live node."""
    toggle = ("drain", "Drain")
    if node.state == Node.State.DRAINING:
        toggle = ("serve", "Return to service")
    offers = [(*toggle, Target.NODE, node.node_id)]
    offers.append(("end-all", "End all", Target.NODE, node.node_id))
    offers.append(("notice", "Notice", Target.NODE, node.node_id))
    return _offer(offers, allowed)


def _offer(
    offers: Iterable[tuple[str, str, str, str]], allowed: Collection[str]
) -> list[dict[str, Any]]:
    return [
        {
            "label": label,
            "url": url,
            "is_destructive": ACTIONS[name].is_destructive,
        }
        for name, label, target, value in offers
        if name in allowed and (url := make_url(name, target, value))
    ]


def format_pair(incoming: float, outgoing: float) -> str:
    """Return the amounts from and to a client as one text."""
    return f"↓{format_count(incoming)} ↑{format_count(outgoing)}"
