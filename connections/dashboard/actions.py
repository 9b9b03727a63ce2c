"""Links to the pages of actions, and the open connections of their targets."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from urllib.parse import urlencode

from connections.actions.registry import Target
from connections.dashboard.sites import make_page_url
from connections.dashboard.snapshot import Snapshot
from connections.net.addresses import Network, find_network
from connections.node.live_state import ConnectionState


def make_url(name: str, target: str, *values: str) -> str:
    """Return the URL of the page that confirms an action; empty if there is none."""
    page = make_page_url("connections_live_action", name)
    pairs = [("target", target), *(("value", value) for value in values)]
    return page and f"{page}?{urlencode(pairs)}"


def find_targets(
    snapshot: Snapshot,
    target: str,
    values: Iterable[str],
    opened_before: datetime | None = None,
) -> list[tuple[str, ConnectionState]]:
    """Return the open connections of the targets, with their nodes."""
    wanted = frozenset(values)
    is_target = _make_test(target, wanted)
    latest = opened_before.timestamp() if opened_before is not None else None
    return [
        (node_id, one)
        for node_id, connections in snapshot.seen.items()
        for one in connections
        if is_target(node_id, one) and (latest is None or one.opened_at <= latest)
    ]


def _make_test(
    target: str, wanted: frozenset[str]
) -> Callable[[str, ConnectionState], bool]:
    if target == Target.ADDRESS:
        networks = [one for one in map(find_network, wanted) if one is not None]

        def is_within(node_id: str, one: ConnectionState) -> bool:
            return any(_overlaps(one.address, known) for known in networks)

        return is_within
    tests: Mapping[str, Callable[[str, ConnectionState], bool]] = {
        Target.CONNECTION: lambda node_id, one: one.connection_id in wanted,
        Target.CLIENT: lambda node_id, one: one.client_id in wanted,
        Target.USER: lambda node_id, one: one.user_id in wanted,
        Target.TOKEN: lambda node_id, one: one.token_id in wanted,
        Target.NODE: lambda node_id, one: node_id in wanted,
        Target.ALL: lambda node_id, one: True,
    }
    return tests[target]


def _overlaps(address: str, network: Network) -> bool:
    """Return True if a recorded address, or its network, may be in a network."""
    recorded = find_network(address)
    return (
        recorded is not None
        and recorded.version == network.version
        and recorded.overlaps(network)
    )
