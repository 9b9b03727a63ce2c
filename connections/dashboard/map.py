"""The connection map: nodes or routes contain clients, clients contain connections."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from django.utils.safestring import SafeString

from connections.dashboard.charts.cells import Cell, draw_cells, draw_row
from connections.dashboard.filters import Selection
from connections.dashboard.snapshot import KEY_LENGTH, Snapshot, make_key
from connections.models import Node
from connections.node.live_state import ConnectionState, LiveState

STATES = (
    (LiveState.ACTIVE, "active", "data within the last 10 s, or a running handler"),
    (LiveState.QUIET, "quiet", "no data in the last 10 s"),
    (LiveState.NEAR_IDLE, "near idle", "four fifths of the idle timeout have passed"),
    (LiveState.SLOW, "slow", "reads more slowly than the server sends"),
    (LiveState.LIMITED, "limited", "sends faster than its rate limit"),
    (LiveState.DRAINING, "draining", "its node is draining"),
)
"""The states with their meanings, in the order of the legend."""

_WORST = {state: rank for rank, state in enumerate(LiveState)}
_MOST_NAMED_CLIENTS = 80
_MOST_NAMED_CONNECTIONS = 400
_MOST_CELLS = 12_000
_MOST_LISTED = 12
_NARROW = 720
_PADDING = 26
_GAP = 14
_MARGIN = 34


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A client inside one node or route."""

    client_id: str
    connections: Sequence[ConnectionState]
    cells: SafeString
    keys: str
    states: Sequence[int]
    """How many connections are in each of STATES."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A node or a route on the map."""

    name: str
    value: str
    """The node's id or the route, as the URL filters by it."""

    query: str
    """The URL's query that shows this region alone."""

    node: Node | None
    count: int
    client_count: int
    states: Sequence[int]
    named: Sequence[Client]
    """All clients, if they are few enough to be named on the map."""

    grid: SafeString | None
    keys: str
    per_cell: int
    """How many connections one cell represents."""

    quiet_count: int
    """Connections of clients that are wholly quiet; they are not in the grid."""

    quiet_clients: int
    listed: Sequence[Client]
    """The clients with the most connections, for the table."""


def make_map(snapshot: Snapshot, selection: Selection) -> list[Region]:
    """Return the regions of a selection, with their drawings."""
    groups = _group(snapshot, selection)
    columns = count_columns(len(groups), selection.width)
    inside = selection.width - _MARGIN
    inner = (inside - _GAP * (columns - 1)) // columns - _PADDING
    total = sum(len(some) for group in groups for some in group.drawn)
    return [
        _make_region(
            group,
            width=inner,
            per_cell=-(-total // _MOST_CELLS) or 1,
            query=selection.query(**{selection.by: group.value}),
        )
        for group in groups
    ]


def count_columns(regions: int, width: int) -> int:
    """Return how many regions stand side by side."""
    if width < _NARROW or regions < 2:
        return 1
    return 2 if regions < 5 or width < 1400 else 3


def count_states(connections: Iterable[ConnectionState]) -> list[int]:
    """Return how many connections are in each of STATES."""
    counted = Counter(one.state for one in connections)
    return [counted[state.value] for state, _, _ in STATES]


def list_names(snapshot: Snapshot) -> dict[str, str]:
    """Return the names of nodes by their ids."""
    return {node.node_id: name_node(node) for node in snapshot.nodes}


def name_node(node: Node) -> str:
    """Return a node's name, host:pid."""
    return f"{node.host}:{node.pid}"


def is_shown(one: ConnectionState, selection: Selection) -> bool:
    """Return True if a connection passes the route filter."""
    return not selection.route or one.route == selection.route


@dataclass(frozen=True)
class _Group:
    """The connections of one region."""

    name: str
    value: str
    node: Node | None
    connections: list[ConnectionState]

    @cached_property
    def clients(self) -> dict[str, list[ConnectionState]]:
        """The connections by client."""
        clients: dict[str, list[ConnectionState]] = {}
        for one in self.connections:
            clients.setdefault(one.client_id, []).append(one)
        return clients

    @property
    def is_named(self) -> bool:
        """True if there is room for the name of every client."""
        return (
            len(self.clients) <= _MOST_NAMED_CLIENTS
            and len(self.connections) <= _MOST_NAMED_CONNECTIONS
        )

    @cached_property
    def drawn(self) -> list[list[ConnectionState]]:
        """The clients with a cell: of many, those that are not wholly quiet."""
        if self.is_named:
            return list(self.clients.values())
        return [
            some
            for some in self.clients.values()
            if any(one.state != LiveState.QUIET for one in some)
        ]


def _group(snapshot: Snapshot, selection: Selection) -> list[_Group]:
    by_node = [
        _Group(
            name_node(node),
            node.node_id,
            node,
            [one for one in snapshot.seen[node.node_id] if is_shown(one, selection)],
        )
        for node in snapshot.nodes
        if node.node_id in snapshot.seen and selection.node in ("", node.node_id)
    ]
    if selection.by == "node":
        return by_node
    routes: dict[str, list[ConnectionState]] = {}
    for group in by_node:
        for one in group.connections:
            routes.setdefault(one.route, []).append(one)
    return [
        _Group(route or "(no route)", route, None, routes[route])
        for route in sorted(routes)
    ]


def _make_region(group: _Group, *, width: int, per_cell: int, query: str) -> Region:
    connections, clients, drawn = group.connections, group.clients, group.drawn
    states = count_states(connections)
    drawn_count = sum(map(len, drawn))
    grid = None
    if drawn and not group.is_named:
        grid = draw_cells(
            [_make_cells(some, per_cell) for some in drawn],
            width=width,
            label=f"{drawn_count} of {len(connections)} connections of {group.name}: "
            f"{_describe_states(states)}",
            key_length=KEY_LENGTH,
        )
    most = sorted(clients.items(), key=lambda pair: -len(pair[1]))
    return Region(
        name=group.name,
        value=group.value,
        query=query,
        node=group.node,
        count=len(connections),
        client_count=len(clients),
        states=states,
        named=[_make_client(*pair) for pair in clients.items()]
        if group.is_named
        else [],
        grid=grid.svg if grid else None,
        keys=grid.keys if grid else "",
        per_cell=per_cell,
        quiet_count=len(connections) - drawn_count,
        quiet_clients=len(clients) - len(drawn),
        listed=[_make_client(*pair) for pair in most[:_MOST_LISTED]],
    )


def _describe_states(states: Sequence[int]) -> str:
    """Return the number of connections per state, in words."""
    return ", ".join(
        f"{count} {word}"
        for count, (_, word, _) in zip(states, STATES, strict=True)
        if count
    )


def _make_client(client_id: str, connections: list[ConnectionState]) -> Client:
    cells = _make_cells(connections, 1)
    return Client(
        client_id=client_id,
        connections=connections,
        cells=draw_row(cells),
        keys="".join(key for _, key in cells),
        states=count_states(connections),
    )


def _make_cells(connections: Sequence[ConnectionState], per_cell: int) -> list[Cell]:
    if per_cell == 1:
        return [(one.state, make_key(one.connection_id)) for one in connections]
    cells = []
    for start in range(0, len(connections), per_cell):
        some = connections[start : start + per_cell]
        worst = min(some, key=lambda one: _WORST[LiveState(one.state)])
        cells.append((worst.state, make_key(worst.connection_id)))
    return cells
