"""The resources of this app: what each list selects, shows and takes as a filter."""

import math
from datetime import UTC, datetime
from typing import Any

from django.db.models import Count, Max, Min, Sum

from connections.api.errors import ApiError, not_found
from connections.api.kinds import MOMENT_SCHEMA, Line, Moment
from connections.api.resources import Column, Filter, Resource
from connections.config.kinds import Choice, Flag
from connections.exceptions import UserAmbiguous, UserNotFound
from connections.models import (
    AccessToken,
    Alert,
    AuditEntry,
    Ban,
    Connection,
    ErrorEvent,
    MinuteRollup,
    Node,
    user_key,
)
from connections.units import as_utc


def find_user(text: str) -> str:
    """
    Return the key of the user that a text names, by key or by login name.

    Raises:
        ApiError: 404, there is no such user; 400, there is more than one.
    """
    try:
        return str(user_key.find_user(text).pk)
    except UserNotFound as exc:
        raise not_found("user", text) from exc
    except UserAmbiguous as exc:
        raise ApiError(400, "ambiguous_user", f"{exc}.") from exc


def equal(column: str, about: str) -> Filter:
    """Return a filter of rows with one value in a column."""
    return Filter(
        kind=Line(),
        about=about,
        apply=lambda rows, value: rows.filter(**{column: value}),
    )


def one_of(column: str, words: list[str], about: str) -> Filter:
    """Return a filter of rows with one of a few words in a column."""
    return Filter(
        kind=Choice(tuple(words)),
        about=about,
        apply=lambda rows, value: rows.filter(**{column: value}),
    )


OF_CLIENT = equal("client_id", "The client with this id.")
OF_USER = Filter(
    kind=Line(),
    about="The user with this key or login name.",
    apply=lambda rows, value: rows.filter(user_id=find_user(value)),
)
_OF_NODE = equal("node_id", "The node with this id.")


def _select_state(rows: Any, state: str) -> Any:
    if state == "open":
        return rows.filter(closed_at=None)
    return rows.exclude(closed_at=None) if state == "closed" else rows


def _select_in_force(rows: Any, is_in_force: bool) -> Any:
    in_force = Ban.objects.in_force().values("pk")
    return (
        rows.filter(pk__in=in_force) if is_in_force else rows.exclude(pk__in=in_force)
    )


def _to_minute(moment: datetime) -> int:
    """Return the first whole minute from a moment on."""
    return math.ceil(as_utc(moment).timestamp() / 60)


def _show_minute(minute: int) -> str:
    return datetime.fromtimestamp(minute * 60, UTC).isoformat()


_CONNECTIONS = Resource(
    name="connections",
    item="connection",
    about="Connections within the retention period, the newest first. A new one is"
    " recorded within a second.",
    permission="connections.view_connection",
    rows=Connection.objects.all,
    order=("-opened_at", "-connection_id"),
    key="connection_id",
    fields={
        "id": "connection_id",
        "client": "client_id",
        "user": "user_id",
        "node": "node_id",
        "route": "route",
        "path": "path",
        "address": "address",
        "opened_at": "opened_at",
        "last_activity_at": "last_activity_at",
        "closed_at": "closed_at",
        "close_code": "close_code",
        "reason": "reason",
        "messages_in": "messages_in",
        "messages_out": "messages_out",
        "bytes_in": "bytes_in",
        "bytes_out": "bytes_out",
        "errors": "errors",
    },
    details={
        "origin": "origin",
        "user_agent": "user_agent",
        "transport": "transport",
        "longest_silence_seconds": "longest_silence_seconds",
        "over_rate": "over_rate",
        "flight": "flight",
    },
    filters={
        "state": Filter(
            kind=Choice(("open", "closed", "all")),
            about="Open ones without it.",
            apply=_select_state,
            default="open",
        ),
        "client": OF_CLIENT,
        "user": OF_USER,
        "node": _OF_NODE,
        "reason": equal("reason", "The close reason; needs state=closed or all."),
    },
)

_CLIENTS = Resource(
    name="clients",
    item="client with an open connection",
    about="Clients with open connections, by their ids.",
    permission="connections.view_connection",
    rows=lambda: (
        Connection.objects.open()
        .values("client_id")
        .annotate(
            connections=Count("connection_id"),
            nodes=Count("node_id", distinct=True),
            first_opened_at=Min("opened_at"),
            latest_activity_at=Max("last_activity_at"),
            sum_in=Sum("messages_in"),
            sum_out=Sum("messages_out"),
            sum_errors=Sum("errors"),
        )
    ),
    order=("client_id",),
    key="client_id",
    fields={
        "id": "client_id",
        "connections": "connections",
        "nodes": "nodes",
        "first_opened_at": "first_opened_at",
        "last_activity_at": "latest_activity_at",
        "messages_in": "sum_in",
        "messages_out": "sum_out",
        "errors": "sum_errors",
    },
    filters={"user": OF_USER, "node": _OF_NODE},
)

_NODES = Resource(
    name="nodes",
    item="node",
    about="Nodes, the newest first.",
    permission="connections.view_node",
    rows=Node.objects.all,
    order=("-started_at", "-node_id"),
    key="node_id",
    fields={
        "id": "node_id",
        "host": "host",
        "pid": "pid",
        "version": "version",
        "pool": "pool",
        "state": "state",
        "started_at": "started_at",
        "beat_at": "beat_at",
        "stopped_at": "stopped_at",
        "open_connections": "open_connections",
        "degraded": "degraded",
        "loop_lag_seconds": "loop_lag_seconds",
    },
    details={"counters": "counters"},
    filters={"state": one_of("state", Node.State.values, "The state of the node.")},
)

BANS = Resource(
    name="bans",
    item="ban",
    about="Bans, also those that have ended, the newest first.",
    permission="connections.view_ban",
    rows=Ban.objects.all,
    order=("-id",),
    key="id",
    fields={
        "id": "id",
        "target": "target",
        "value": "value",
        "reason": "reason",
        "author": "author",
        "created_at": "created_at",
        "until": "until",
    },
    filters={
        "target": one_of("target", Ban.Target.values, "What is banned."),
        "value": equal("value", "A client id, the key of a user, or a network."),
        "in_force": Filter(
            kind=Flag(),
            about="Whether the ban has not ended.",
            apply=_select_in_force,
        ),
    },
)

TOKENS = Resource(
    name="tokens",
    item="access token",
    about="Access tokens, the newest first; nothing shows the token itself again.",
    permission="connections.view_accesstoken",
    rows=AccessToken.objects.all,
    order=("-id",),
    key="id",
    fields={
        "id": "id",
        "hint": "hint",
        "client": "client_id",
        "user": "user_id",
        "scopes": "scopes",
        "created_at": "created_at",
        "expires_at": "expires_at",
        "revoked_at": "revoked_at",
        "last_used_at": "last_used_at",
    },
    filters={
        "client": OF_CLIENT,
        "user": OF_USER,
        "state": Filter(
            kind=Choice(AccessToken.STATES),
            about="Whether the token is valid, expired or revoked.",
            apply=lambda rows, value: rows.in_state(value),
        ),
    },
)

_ALERTS = Resource(
    name="alerts",
    item="alert",
    about="Alerts, the newest first.",
    permission="connections.view_alert",
    rows=lambda: Alert.objects.filter(is_test=False),
    order=("-id",),
    key="id",
    fields={
        "id": "id",
        "rule": "rule",
        "severity": "severity",
        "state": "state",
        "value": "value",
        "peak": "peak",
        "threshold": "threshold",
        "detail": "detail",
        "since": "since",
        "fired_at": "fired_at",
        "resolved_at": "resolved_at",
    },
    filters={
        "state": one_of("state", Alert.State.values, "The state of the alert."),
        "rule": equal("rule", "The name of the rule."),
        "severity": equal("severity", "The severity of the rule."),
    },
)

_USAGE_SUMS = (
    "open_connections",
    *MinuteRollup.objects.all().SUMS,
)

_USAGE = Resource(
    name="usage",
    item="minute with counts",
    about="Counts of all nodes by the minute, the newest first.",
    permission="connections.view_livedashboard",
    rows=lambda: MinuteRollup.objects.values("minute").annotate(
        **{name: Sum(name) for name in _USAGE_SUMS},
        max_loop_lag_seconds=Max("max_loop_lag_seconds"),
    ),
    order=("-minute",),
    key="minute",
    fields={
        "minute": "minute",
        "at": Column(name="minute", schema=MOMENT_SCHEMA, convert=_show_minute),
        **{name: name for name in (*_USAGE_SUMS, "max_loop_lag_seconds")},
    },
    filters={
        "node": _OF_NODE,
        "since": Filter(
            kind=Moment(),
            about="Minutes that began at this moment or later.",
            apply=lambda rows, value: rows.filter(minute__gte=_to_minute(value)),
        ),
        "until": Filter(
            kind=Moment(),
            about="Minutes that began before this moment.",
            apply=lambda rows, value: rows.filter(minute__lt=_to_minute(value)),
        ),
    },
)

_ERRORS = Resource(
    name="errors",
    item="error",
    about="Exceptions of consumers and responders, the newest first, without their"
    " tracebacks.",
    permission="connections.view_errorevent",
    rows=ErrorEvent.objects.all,
    order=("-at", "-error_id"),
    key="error_id",
    fields={
        "id": "error_id",
        "connection": "connection_id",
        "node": "node_id",
        "at": "at",
        "exception": "exception_class",
        "where": "where",
        "route": "route",
    },
    filters={
        "connection": equal("connection_id", "The connection with this id."),
        "exception": equal("exception_class", "The class of the exception."),
    },
)

_AUDIT = Resource(
    name="audit",
    item="audit entry",
    about="Actions of staff, commands, the API and rules, the newest first.",
    permission="connections.view_auditentry",
    rows=AuditEntry.objects.all,
    order=("-id",),
    key="id",
    fields={
        "id": "id",
        "at": "at",
        "actor": "actor",
        "via": "via",
        "action": "action",
        "target": "target",
        "value": "value",
        "reason": "reason",
    },
    details={"facts": "facts"},
    filters={
        "actor": equal("actor", "The name of the actor."),
        "via": one_of("via", AuditEntry.Via.values, "The source of the action."),
        "action": equal("action", "Such as end, ban or drain."),
    },
)

RESOURCES = (
    _CONNECTIONS,
    _CLIENTS,
    _NODES,
    BANS,
    TOKENS,
    _ALERTS,
    _USAGE,
    _ERRORS,
    _AUDIT,
)
