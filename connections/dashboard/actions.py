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


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The rows that an action wrote; nodes read them."""

    requests: Sequence[CloseRequest] = ()
    commands: Sequence[NodeCommand] = ()


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


def perform(request: ActionRequest) -> Outcome:
    """
    Perform an action and write the audit log, in one transaction.

    Raises:
        ValidationError: a target is no existing user, or no valid address.
    """
    with transaction.atomic():
        outcome = _PERFORM[request.action.name](request)
        _record(request)
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


def _end(request: ActionRequest) -> Outcome:
    requests = [
        CloseRequest(
            target=request.target,
            value=value,
            reason=MAY_RETURN if request.may_return else "kicked",
            author=request.author,
            note=request.reason,
            spread_seconds=request.spread_seconds,
        )
        for value in request.values
    ]
    post_close_requests(*requests)
    return Outcome(requests=_reread(request, requests))


def _ban(request: ActionRequest) -> Outcome:
    until = None
    if request.ban_seconds is not None:
        until = timezone.now() + timedelta(seconds=request.ban_seconds)
    for value in request.values:
        impose(
            Ban(
                target=request.target,
                value=value,
                reason=request.reason,
                author=request.author,
                until=until,
            )
        )
    return Outcome(requests=_reread(request, request.values))


def _revoke(request: ActionRequest) -> Outcome:
    AccessToken.objects.filter(pk__in=request.values).revoke()
    requests = [
        CloseRequest(
            target=Target.TOKEN,
            value=value,
            reason="revoked",
            author=request.author,
            note=request.reason,
        )
        for value in request.values
    ]
    post_close_requests(*requests)
    return Outcome(requests=_reread(request, requests))


def _post_commands(request: ActionRequest) -> Outcome:
    commands = [
        NodeCommand.objects.create(
            kind=request.action.name,
            target=request.target,
            value=value,
            text=request.text,
            author=request.author,
        )
        for value in request.values
    ]
    announce()
    return Outcome(commands=commands)


def _reread(request: ActionRequest, posted: Sequence[Any]) -> list[CloseRequest]:
    """Return the requests just written, with their keys and times."""
    own = CloseRequest.objects.filter(author=request.author, target=request.target)
    return list(own.order_by("-id")[: len(posted)])


_PERFORM: Mapping[str, Callable[[ActionRequest], Outcome]] = {
    "end": _end,
    "end-all": _end,
    "ban": _ban,
    "revoke": _revoke,
    "notice": _post_commands,
    "drain": _post_commands,
    "serve": _post_commands,
}

_LOGGED_MODELS: Mapping[str, type[Any]] = {
    Target.CONNECTION: Connection,
    Target.NODE: Node,
    Target.TOKEN: AccessToken,
}


def _record(request: ActionRequest) -> None:
    """Write the action to the log of Django admin."""
    model = _LOGGED_MODELS.get(request.target, LiveDashboard)
    content_type = ContentType.objects.get_for_model(model)
    message = f"{request.action.label}: {request.reason or request.text}"
    if request.may_return:
        message += " (may return)"
    if request.spread_seconds:
        message += f" (within {request.spread_seconds:g} s)"
    LogEntry.objects.bulk_create(
        LogEntry(
            user_id=request.user.pk,
            content_type=content_type,
            # Only objects with an admin page are linked.
            object_id=value if model is not LiveDashboard else None,
            object_repr=f"{request.target} {value}".strip()[:200],
            action_flag=CHANGE,
            change_message=message,
        )
        for value in request.values
    )
