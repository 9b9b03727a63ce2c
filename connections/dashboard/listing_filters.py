"""Filters of the list of connections: by state, node and close reason."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from connections.close_codes import APPLICATION, CLOSE_REASONS, PEER
from connections.dashboard.cache import SnapshotCache
from connections.dashboard.map import STATES
from connections.models import Node

MOST_FOUND_LIVE = 500
"""The most live connections that one query looks up."""


class StateFilter(admin.SimpleListFilter):
    """Filter by live state, open or closed; the default is open."""

    title = "state"
    parameter_name = "state"
    note = ""
    """What the page says of the rows that are found."""

    def __init__(
        self, request: HttpRequest, params: Any, model: Any, model_admin: Any
    ) -> None:
        super().__init__(request, params, model, model_admin)
        self._shared: SnapshotCache = model_admin.shared

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        states = [(state.value, f"open, {word}") for state, word, _ in STATES]
        return [*states, ("closed", "closed"), ("all", "open and closed")]

    def choices(self, changelist: Any) -> Any:
        first, *rest = super().choices(changelist)
        yield {**first, "display": "open"}
        yield from rest

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        value = self.value()
        if value == "all":
            return queryset
        if value == "closed":
            return queryset.exclude(closed_at=None)
        if value is None:
            # Only ended connections have a reason.
            is_ended = ReasonFilter.parameter_name in request.GET
            return queryset if is_ended else queryset.filter(closed_at=None)
        snapshot = self._shared.get_snapshot()
        node_id = request.GET.get(NodeFilter.parameter_name)
        some = snapshot.seen.get(node_id, []) if node_id else snapshot
        found = [one.connection_id for one in some if one.state == value]
        if len(found) > MOST_FOUND_LIVE:
            self.note = (
                f"Only {MOST_FOUND_LIVE} of {len(found):,} connections in this state "
                "are listed."
            )
        return queryset.filter(pk__in=found[:MOST_FOUND_LIVE])


class NodeFilter(admin.SimpleListFilter):
    """Filter by live node, or by another one that a link names."""

    title = "node"
    parameter_name = "node"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        nodes = Node.objects.live().values_list("node_id", "host", "pid")
        names = {node_id: f"{host}:{pid}" for node_id, host, pid in nodes}
        if chosen := self.value():
            names.setdefault(chosen, chosen)
        return list(names.items())

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset.filter(node_id=self.value()) if self.value() else queryset


class ReasonFilter(admin.SimpleListFilter):
    """Filter by close reason; the choices need no database query."""

    title = "reason"
    parameter_name = "reason"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            (reason, reason) for reason in (*sorted(CLOSE_REASONS), APPLICATION, PEER)
        ]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset.filter(reason=self.value()) if self.value() else queryset
