"""Actions of staff on the dashboard, each with its own permission."""

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import transaction
from django.urls import reverse
from django.utils import timezone

from connections.access.bans import impose
from connections.announcements import MAY_RETURN, announce, post_close_requests
from connections.dashboard.permissions import is_read_only
from connections.dashboard.snapshot import Snapshot
from connections.models import (
    AccessToken,
    Ban,
    CloseRequest,
    Connection,
    LiveDashboard,
    Node,
    NodeCommand,
)
from connections.node.live_state import ConnectionState

Target = CloseRequest.Target
MOST_VALUES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One thing to do: what it is called, who may, to whom."""

    name: str
    label: str
    permission: str
    targets: tuple[str, ...]
    is_grave: bool = False


ACTIONS = {
    action.name: action
    for action in (
        Action(
            name="end",
            label="End",
            permission="connections.end_connection",
            targets=(Target.CONNECTION,),
            is_grave=True,
        ),
        Action(
            name="end-all",
            label="End all",
            permission="connections.end_all",
            targets=(Target.CLIENT, Target.USER, Target.NODE),
            is_grave=True,
        ),
        Action(
            name="ban",
            label="Ban",
            permission="connections.add_ban",
            targets=(Target.CLIENT, Target.USER, Target.ADDRESS),
            is_grave=True,
        ),
        Action(
            name="revoke",
            label="Revoke token",
            permission="connections.change_accesstoken",
            targets=(Target.TOKEN,),
            is_grave=True,
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
            is_grave=True,
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
class Ask:
    """An act, asked for: of whom, by whom, why."""

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
        """The name that is recorded with it."""
        return str(self.user.get_username())


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was posted: the rows by which the nodes learn of it."""

    requests: Sequence[CloseRequest] = ()
    commands: Sequence[NodeCommand] = ()


def find_allowed(user: Any) -> frozenset[str]:
    """Return the names of the acts that a user may do now; none in read-only mode."""
    if is_read_only():
        return frozenset()
    return frozenset(
        name for name, action in ACTIONS.items() if user.has_perm(action.permission)
    )


def make_url(name: str, target: str, *values: str) -> str:
    """Return where an act on somebody is confirmed."""
    pairs = [("target", target), *(("value", value) for value in values)]
    return f"{reverse('admin:connections_live_action', args=[name])}?{urlencode(pairs)}"


def find_meant(
    snapshot: Snapshot,
    target: str,
    values: Iterable[str],
    opened_before: datetime | None = None,
) -> list[tuple[str, ConnectionState]]:
    """Return the open connections that an act would concern, with their nodes."""
    wanted = frozenset(values)
    is_meant = _make_test(target, wanted)
    latest = opened_before.timestamp() if opened_before is not None else None
    return [
        (node_id, one)
        for node_id, connections in snapshot.seen.items()
        for one in connections
        if is_meant(node_id, one) and (latest is None or one.opened_at <= latest)
    ]


def perform(ask: Ask) -> Outcome:
    """
    Do what is asked, and write it into the audit log in the same transaction.

    Raises:
        ValidationError: there is no such user, or it is no address.
    """
    with transaction.atomic():
        outcome = _PERFORM[ask.action.name](ask)
        _record(ask)
    return outcome


def _make_test(
    target: str, wanted: frozenset[str]
) -> Callable[[str, ConnectionState], bool]:
    if target == Target.ADDRESS:
        networks = [ipaddress.ip_network(text, strict=False) for text in wanted]
        return lambda node_id, one: any(
            ipaddress.ip_address(one.address) in network
            for network in networks
            if one.address
        )
    tests: Mapping[str, Callable[[str, ConnectionState], bool]] = {
        Target.CONNECTION: lambda node_id, one: one.connection_id in wanted,
        Target.CLIENT: lambda node_id, one: one.client_id in wanted,
        Target.USER: lambda node_id, one: one.user_id in wanted,
        Target.TOKEN: lambda node_id, one: one.token_id in wanted,
        Target.NODE: lambda node_id, one: node_id in wanted,
        Target.ALL: lambda node_id, one: True,
    }
    return tests[target]


def _end(ask: Ask) -> Outcome:
    requests = [
        CloseRequest(
            target=ask.target,
            value=value,
            reason=MAY_RETURN if ask.may_return else "kicked",
            author=ask.author,
            note=ask.reason,
            spread_seconds=ask.spread_seconds,
        )
        for value in ask.values
    ]
    post_close_requests(*requests)
    return Outcome(requests=_reread(ask, requests))


def _ban(ask: Ask) -> Outcome:
    until = None
    if ask.ban_seconds is not None:
        until = timezone.now() + timedelta(seconds=ask.ban_seconds)
    for value in ask.values:
        impose(
            Ban(
                target=ask.target,
                value=value,
                reason=ask.reason,
                author=ask.author,
                until=until,
            )
        )
    return Outcome(requests=_reread(ask, ask.values))


def _revoke(ask: Ask) -> Outcome:
    AccessToken.objects.filter(pk__in=ask.values).revoke()
    requests = [
        CloseRequest(
            target=Target.TOKEN,
            value=value,
            reason="revoked",
            author=ask.author,
            note=ask.reason,
        )
        for value in ask.values
    ]
    post_close_requests(*requests)
    return Outcome(requests=_reread(ask, requests))


def _order(ask: Ask) -> Outcome:
    commands = [
        NodeCommand.objects.create(
            kind=ask.action.name,
            target=ask.target,
            value=value,
            text=ask.text,
            author=ask.author,
        )
        for value in ask.values
    ]
    announce()
    return Outcome(commands=commands)


def _reread(ask: Ask, posted: Sequence[Any]) -> list[CloseRequest]:
    """Return the requests just written, with their keys and moments."""
    own = CloseRequest.objects.filter(author=ask.author, target=ask.target)
    return list(own.order_by("-id")[: len(posted)])


_PERFORM: Mapping[str, Callable[[Ask], Outcome]] = {
    "end": _end,
    "end-all": _end,
    "ban": _ban,
    "revoke": _revoke,
    "notice": _order,
    "drain": _order,
    "serve": _order,
}

_LOGGED: Mapping[str, type[Any]] = {
    Target.CONNECTION: Connection,
    Target.NODE: Node,
    Target.TOKEN: AccessToken,
}


def _record(ask: Ask) -> None:
    """Write who did what, and why, where Django's admin keeps such things."""
    model = _LOGGED.get(ask.target, LiveDashboard)
    content_type = ContentType.objects.get_for_model(model)
    said = f"{ask.action.label}: {ask.reason or ask.text}"
    if ask.may_return:
        said += " (may return)"
    if ask.spread_seconds:
        said += f" (within {ask.spread_seconds:g} s)"
    LogEntry.objects.bulk_create(
        LogEntry(
            user_id=ask.user.pk,
            content_type=content_type,
            # Only what has a page of its own is linked to.
            object_id=value if model is not LiveDashboard else None,
            object_repr=f"{ask.target} {value}".strip()[:200],
            action_flag=CHANGE,
            change_message=said,
        )
        for value in ask.values
    )
