"""List recorded connections, with the live state of those still open."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.views.main import SEARCH_VAR, ChangeList
from django.core.exceptions import PermissionDenied
from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.html import format_html

from connections.actions.registry import MOST_VALUES, Target, find_allowed
from connections.dashboard.actions import make_url
from connections.dashboard.bounded_lists import (
    MOST_COUNTED,
    MOST_FOUND,
    BoundedChangeList,
    BoundedList,
)
from connections.dashboard.cache import shared
from connections.dashboard.charts.scales import NOTHING, format_bytes, format_seconds
from connections.dashboard.details import describe_connection, format_pair
from connections.dashboard.listing_filters import (
    NodeFilter,
    ReasonFilter,
    StateFilter,
)
from connections.dashboard.map import STATES
from connections.dashboard.sites import linking_within
from connections.dashboard.snapshot import Snapshot
from connections.dashboard.time_columns import show_times
from connections.models import Connection, ErrorEvent, Node
from connections.models.node import ID_LENGTH
from connections.models.user_key import find_user_keys, with_user
from connections.node.live_state import ConnectionState
from connections.storage.text import is_storable
from connections.units import show_moment

_WORDS = {state.value: word for state, word, _ in STATES}
# The most wanted columns stand first: the filters leave little width.
_OPEN_COLUMNS = (
    *("client_id", "state", "age", "idle", "rate", "traffic"),
    *("node", "route", "user", "round_trip", "unsent"),
)
_CLOSED_COLUMNS = (
    *("client_id", "state", "closed_at", "age", "traffic"),
    *("node", "route", "user"),
)
_ALL_COLUMNS = (
    *("client_id", "state", "closed_at", "age", "idle", "rate", "traffic"),
    *("node", "route", "user"),
)
_IDENTITY = (
    *("connection_id", "client_id", "user", "node", "path", "route", "address"),
    *("origin", "user_agent", "transport", "opened_at", "idle_timeout_seconds"),
)
_END = ("closed_at", "close_code", "reason")
_COUNTERS = (
    *("last_activity_at", "messages_in", "messages_out"),
    *("bytes_in", "bytes_out", "errors"),
)
_LIVE_FIELDS = ("state", "age", "idle", "rate", "traffic", "round_trip", "unsent")


class LiveChangeList(BoundedChangeList):
    """
    Add the live state of connections to the rows of a page.

    Filters do not narrow a search: whoever has an id wants its connection.
    """

    def get_queryset(
        self, request: HttpRequest, exclude_parameters: Any = None
    ) -> QuerySet[Connection]:
        query, self.query = self.query, ""
        rows: QuerySet[Connection] = super().get_queryset(request, exclude_parameters)
        self.query = query
        if not query:
            return rows
        model_admin: Any = self.model_admin
        found, _ = model_admin.get_search_results(request, self.root_queryset, query)
        may_view = request.user.has_perm("connections.view_errorevent")
        self.found_error = model_admin.find_error(query) if may_view else None
        rows = found.order_by(*self.get_ordering(request, found))
        return rows

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        model_admin: Any = self.model_admin
        snapshot = model_admin.shared.get_snapshot()
        rows = list(self.result_list)
        for row in rows:
            row.shown = show_live(row, snapshot)
        self.result_list: Any = rows


class ConnectionList(BoundedList):
    """Recorded connections with their live state and actions."""

    shared = shared

    change_form_template = "admin/connections/connection/change_form.html"
    change_list_template = "admin/connections/connection/change_list.html"
    actions = ("end_selected",)
    list_display = _OPEN_COLUMNS
    list_display_links = ("client_id",)
    list_filter = (StateFilter, NodeFilter, ReasonFilter, "opened_at")
    linked_lookups = ("client_id",)
    list_select_related = ()
    ordering = ("-opened_at",)
    sortable_by = ()
    search_help_text = (
        "The full id of a connection or client, a full user name, or the ref of an "
        "error; open connections also by part of the client id or start of the "
        f"address. At most {MOST_COUNTED} rows are counted, and the newest "
        f"{MOST_FOUND} of a client or user are found."
    )
    search_fields = ("connection_id",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Connection]:
        # No join: connections outlive the rows of deleted nodes. A node's counters
        # are large, and are not shown here.
        nodes = Node.objects.defer("counters", "minute", "unrolled")
        rows = with_user(super().get_queryset(request))
        return rows.prefetch_related(Prefetch("node", nodes))

    def get_exclude(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        # The template shows the flight record as a table.
        return ("flight",)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return LiveChangeList

    def search(
        self, request: HttpRequest, queryset: Any, search_term: str
    ) -> tuple[Any, bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        keys = dict.fromkeys(self._find_keys(term))
        return queryset.filter(pk__in=list(keys)), False

    def _find_keys(self, term: str) -> Iterator[str]:
        """Yield the ids of the newest connections that a term names."""
        live = (
            one.connection_id
            for one in self.shared.get_snapshot()
            if term in one.client_id or one.address.startswith(term)
        )
        yield from islice(live, MOST_FOUND)
        if len(term) == ID_LENGTH:
            yield term
        error = self.find_error(term)
        if error is not None and error.connection_id:
            yield error.connection_id
        # Each condition has an index; one query with OR would use none.
        rows = Connection.objects.values_list("pk", flat=True)
        yield from rows.filter(client_id=term).order_by("-opened_at")[:MOST_FOUND]
        for user in find_user_keys(term):
            of_user = rows.filter(user_id=user).order_by("-opened_at")
            yield from of_user[:MOST_FOUND]

    def find_error(self, term: str) -> ErrorEvent | None:
        """Return the error whose ref a term is."""
        if len(term) > ID_LENGTH:
            return None
        return ErrorEvent.objects.defer("traceback").filter(pk=term).first()

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        columns: tuple[str, ...] = _OPEN_COLUMNS
        if _is_closed(request):
            columns = _CLOSED_COLUMNS
        elif request.GET.get("state") == "all" or request.GET.get(SEARCH_VAR):
            columns = _ALL_COLUMNS
        return show_times(self.model, columns)

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        """Return the order of an index that begins with the filters."""
        query = set(request.GET)
        is_by_opening = bool(query & {"client_id", "opened_at__gte", "opened_at__lt"})
        is_ended = _is_closed(request) or ReasonFilter.parameter_name in query
        is_ended = is_ended and SEARCH_VAR not in query
        return ("-closed_at",) if is_ended and not is_by_opening else self.ordering

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return super().get_fieldsets(request, obj)
        is_live = self.shared.get_snapshot().find(obj.pk) is not None
        sections: list[tuple[str, tuple[str, ...]]] = [("Recorded", _IDENTITY)]
        if obj.closed_at is not None:
            sections += [("Its end", _END), ("Counted until its end", _COUNTERS)]
        elif not is_live:
            sections.append(("Recorded so far: there is no live sample", _COUNTERS))
        return [
            (name, {"fields": show_times(self.model, fields)})
            for name, fields in sections
        ]

    def list_pages(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.show_live)
        name = "connections_connection_live"
        return [path("live/", view, name=name)]

    def show_live(self, request: HttpRequest) -> HttpResponse:
        """Return the current live columns of the connections on a page."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        keys = request.GET.getlist("id")[: self.list_max_show_all]
        snapshot = self.shared.get_snapshot()
        found = self.get_queryset(request).filter(
            pk__in=list(filter(is_storable, keys))
        )
        rows = {row.pk: show_live(row, snapshot) for row in found}
        return JsonResponse({"rows": rows})

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        snapshot = self.shared.get_snapshot()
        found = snapshot.find(object_id) if len(object_id) == ID_LENGTH else None
        context = dict(extra_context or {})
        if found is not None:
            allowed = find_allowed(request.user)
            with linking_within(self.admin_site.name):
                context |= describe_connection(snapshot, *found, allowed)
            context["sampled_at"] = show_moment(snapshot.taken_at)
        return super().change_view(request, object_id, form_url, context)

    def has_end_permission(self, request: HttpRequest) -> bool:
        """Return True if the user may end connections, and the site has the page."""
        with linking_within(self.admin_site.name):
            has_page = bool(make_url("end", Target.CONNECTION))
        return has_page and "end" in find_allowed(request.user)

    @admin.action(description="End selected connections…", permissions=["end"])
    def end_selected(
        self, request: HttpRequest, rows: QuerySet[Connection]
    ) -> HttpResponse | None:
        keys = list(
            rows.filter(closed_at=None).values_list("pk", flat=True)[: MOST_VALUES + 1]
        )
        if not keys:
            messages.error(request, "None of the selected connections is open.")
            return None
        if len(keys) > MOST_VALUES:
            problem = f"Select at most {MOST_VALUES}, or end all of a client or node."
            messages.error(request, problem)
            return None
        with linking_within(self.admin_site.name):
            url = make_url("end", Target.CONNECTION, *keys)
        return HttpResponseRedirect(url)

    # Columns

    def _show(self, row: Any, field: str) -> str:
        return format_html(
            '<span class="live-cell" data-live="{}" data-id="{}">{}</span>',
            field,
            row.pk,
            row.shown[field],
        )

    @admin.display(description="state")
    def state(self, row: Any) -> str:
        return self._show(row, "state")

    @admin.display(description="open for")
    def age(self, row: Any) -> str:
        return self._show(row, "age")

    @admin.display(description="idle for")
    def idle(self, row: Any) -> str:
        return self._show(row, "idle")

    @admin.display(description="messages /s")
    def rate(self, row: Any) -> str:
        return self._show(row, "rate")

    @admin.display(description="bytes")
    def traffic(self, row: Any) -> str:
        return self._show(row, "traffic")

    @admin.display(description="round trip")
    def round_trip(self, row: Any) -> str:
        return self._show(row, "round_trip")

    @admin.display(description="unsent")
    def unsent(self, row: Any) -> str:
        return self._show(row, "unsent")


def _is_closed(request: HttpRequest) -> bool:
    """Return True if a page lists closed connections alone."""
    query = request.GET
    if query.get(SEARCH_VAR):
        return False
    state, reason = query.get(StateFilter.parameter_name), ReasonFilter.parameter_name
    return state == "closed" or (state is None and bool(query.get(reason)))


def show_live(row: Connection, snapshot: Snapshot) -> dict[str, str]:
    """Return a row's live columns as texts."""
    if row.closed_at is not None:
        lived = (row.closed_at - row.opened_at).total_seconds()
        return {
            **dict.fromkeys(_LIVE_FIELDS, NOTHING),
            "state": f"{row.close_code or ''} {row.reason}".strip(),
            "age": format_seconds(lived),
            "traffic": _format_bytes_pair(row),
        }
    found = snapshot.find(row.pk)
    age = (timezone.now() - row.opened_at).total_seconds()
    if found is None:
        return {
            **dict.fromkeys(_LIVE_FIELDS, NOTHING),
            "state": "open, as recorded",
            "age": format_seconds(age),
            "traffic": _format_bytes_pair(row),
        }
    one = found[1]
    return {
        "state": _WORDS[one.state],
        "age": format_seconds(age),
        "idle": format_seconds(one.idle_seconds),
        "rate": format_pair(one.in_per_second, one.out_per_second),
        "traffic": _format_bytes_pair(one),
        "round_trip": NOTHING if one.rtt_ms is None else f"{one.rtt_ms:g} ms",
        "unsent": format_bytes(one.unsent_bytes),
    }


def _format_bytes_pair(counted: Connection | ConnectionState) -> str:
    incoming, outgoing = counted.bytes_in, counted.bytes_out
    return f"↓{format_bytes(incoming)} ↑{format_bytes(outgoing)}"
