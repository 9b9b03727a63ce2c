"""The page of a node: its numbers, its connections, and what staff asked of it."""

from collections.abc import Iterator
from typing import Any

from django.db.models import Q
from django.http import HttpRequest, HttpResponse

from connections.actions.registry import Target, find_allowed
from connections.admin.read_only import ReadOnlyAdmin
from connections.dashboard.cache import shared
from connections.dashboard.charts.scales import (
    format_bytes,
    format_count,
    format_seconds,
)
from connections.dashboard.details import offer_for_node
from connections.dashboard.sites import linking_within
from connections.models import CloseRequest, Connection, Node, NodeCommand
from connections.models.node import LIVE_STATES
from connections.units import from_timestamp, show_moment

_MOST_LISTED = 20
_SUMS = (
    ("opened", "Opened"),
    ("messages_in", "Messages from clients"),
    ("messages_out", "Messages to clients"),
    ("rate_limited", "Messages over the rate"),
)
_TALLIES = (
    ("ends", "Ends by reason"),
    ("refused", "Refused handshakes by outcome"),
    ("errors", "Errors by kind"),
    ("resumes", "Sessions attached by outcome"),
)


class NodePages(ReadOnlyAdmin):
    """Show the counters of a node as tables, with its connections and commands."""

    shared = shared
    change_form_template = "admin/connections/node/change_form.html"

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        fields = [
            *("node_id", "host", "pid", "version", "state", "generation"),
            *("started_at", "beat_at"),
        ]
        if obj is not None and obj.stopped_at is not None:
            fields.append("stopped_at")
        if obj is not None and obj.degraded:
            fields.append("degraded")
        return fields

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        context = dict(extra_context or {})
        node = self.get_object(request, object_id)
        if node is not None and self.has_view_permission(request, node):
            with linking_within(self.admin_site.name):
                context |= self._describe(node, find_allowed(request.user))
                context |= self._list_rows(node, request.user)
        return super().change_view(request, object_id, form_url, context)

    def _describe(self, node: Node, allowed: frozenset[str]) -> dict[str, Any]:
        is_live = node.state in LIVE_STATES
        counters = node.counters
        return {
            "is_live": is_live,
            "actions": offer_for_node(node, allowed) if is_live else [],
            "numbers": list(_list_numbers(node)),
            "tallies": [
                (title, sorted(counters[name].items(), key=lambda pair: -pair[1]))
                for name, title in _TALLIES
                if counters.get(name)
            ],
        }

    def _list_rows(self, node: Node, user: Any) -> dict[str, Any]:
        """Return what only staff may see who may view such rows elsewhere."""
        context: dict[str, Any] = {}
        if user.has_perm("connections.view_connection"):
            seen = self.shared.get_snapshot().seen.get(node.node_id, [])
            ended = (
                Connection.objects.filter(node_id=node.node_id)
                .exclude(closed_at=None)
                .order_by("-opened_at")
                .only("client_id", "closed_at", "close_code", "reason")[:_MOST_LISTED]
            )
            context |= {
                "open_count": len(seen),
                "open": [
                    {"one": one, "opened": show_moment(from_timestamp(one.opened_at))}
                    for one in seen[:_MOST_LISTED]
                ],
                "ended": [
                    {"row": row, "closed": show_moment(row.closed_at)} for row in ended
                ],
            }
        if user.has_perm("connections.view_auditentry"):
            context["asked"] = list(_list_asked(node))
        return context


def _list_numbers(node: Node) -> Iterator[tuple[str, str]]:
    """Yield the counts of a node since its start, with their names."""
    counters = node.counters
    if node.state in LIVE_STATES:
        yield "Open connections", format_count(node.open_connections)
    for name, title in _SUMS:
        yield title, format_count(counters.get(name, 0))
    yield "Bytes from clients", format_bytes(counters.get("bytes_in", 0))
    yield "Bytes to clients", format_bytes(counters.get("bytes_out", 0))
    yield "Running consumers", format_count(counters.get("consumers", 0))
    yield "Stuck consumers", format_count(counters.get("stuck_consumers", 0))
    yield "Lag of the event loop", format_seconds(node.loop_lag_seconds)
    yield "Records that wait", format_count(counters.get("recorder_pending", 0))
    if "pool_slots" in counters:
        taken, limit = counters["pool_slots"], counters.get("pool_limit", 0)
        yield "Slots of the pool", f"{taken} of {limit}"


def _list_asked(node: Node) -> Iterator[dict[str, str]]:
    """Yield the last commands and close requests for a node, the newest first."""
    named = Q(target=Target.NODE, value=node.node_id)
    commands = NodeCommand.objects.filter(named).order_by("-id")[:_MOST_LISTED]
    requests = CloseRequest.objects.filter(named).order_by("-id")[:_MOST_LISTED]
    rows: list[Any] = [*commands, *requests]
    rows.sort(key=lambda row: row.created_at, reverse=True)
    for row in rows[:_MOST_LISTED]:
        is_command = isinstance(row, NodeCommand)
        yield {
            "at": show_moment(row.created_at),
            "what": row.get_kind_display() if is_command else f"end all: {row.reason}",
            "author": row.author,
            "note": row.text if is_command else row.note,
        }
