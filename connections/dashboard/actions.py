"""Actions of staff on the dashboard, each with its own permission."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.urls import reverse

from connections.dashboard.permissions import is_read_only
from connections.dashboard.snapshot import Snapshot
from connections.models import (
    CloseRequest,
)
from connections.net.addresses import parse_address, parse_network
from connections.node.live_state import ConnectionState

Target = CloseRequest.Target
MOST_VALUES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One action: its name, its permission and the kinds of its targets."""

    name: str
    label: str
    permission: str
    targets: tuple[str, ...]
    is_destructive: bool = False


ACTIONS = {
    action.name: action
    for action in (
        Action(
            name="end",
            label="End",
            permission="connections.end_connection",
            targets=(Target.CONNECTION,),
            is_destructive=True,
        ),
        Action(
            name="end-all",
            label="End all",
            permission="connections.end_all",
            targets=(Target.CLIENT, Target.USER, Target.NODE),
            is_destructive=True,
        ),
        Action(
            name="ban",
            label="Ban",
            permission="connections.add_ban",
            targets=(Target.CLIENT, Target.USER, Target.ADDRESS),
            is_destructive=True,
        ),
        Action(
            name="revoke",
            label="Revoke token",
            permission="connections.change_accesstoken",
            targets=(Target.TOKEN,),
            is_destructive=True,
        ),
        Action(
            name="notice",
            label="Send notice",
            permission="connections.send_notice",
            targets=(
                Target.CONNECTION,
                Target.CLIENT,
                Target.USER,
                Target.NODE,
                Target.ALL,
            ),
        ),
        Action(
            name="drain",
            label="Drain",
            permission="connections.drain_node",
            targets=(Target.NODE,),
            is_destructive=True,
        ),
        Action(
            name="serve",
            label="Return to service",
            permission="connections.drain_node",
            targets=(Target.NODE,),
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionRequest:
    """A request to perform an action: its targets, user and reason."""

    action: Action
    target: str
    values: tuple[str, ...]
    user: Any
    reason: str
    may_return: bool = False
    spread_seconds: float = 0
    ban_seconds: float | None = None
    text: str = ""

    @property
    def author(self) -> str:
        """The user name that is recorded."""
        return str(self.user.get_username())


def find_allowed(user: Any) -> frozenset[str]:
    """Return the names of a user's permitted actions; none in read-only mode."""
    if is_read_only():
        return frozenset()
    return frozenset(
        name for name, action in ACTIONS.items() if user.has_perm(action.permission)
    )


def make_url(name: str, target: str, *values: str) -> str:
    """Return the URL of the page that confirms an action."""
    pairs = [("target", target), *(("value", value) for value in values)]
    return f"{reverse('admin:connections_live_action', args=[name])}?{urlencode(pairs)}"


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
        networks = [parse_network(text) for text in wanted]

        def is_within(node_id: str, one: ConnectionState) -> bool:
            address = parse_address(one.address)
            return address is not None and any(address in known for known in networks)

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
