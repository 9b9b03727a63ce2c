"""Show sessions and their entries in the admin, read-only."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html

from connections.admin.read_only import ReadOnlyAdmin
from connections.admin.user_search import UserSearch
from connections.config.loader import get_config
from connections.dashboard.charts.scales import NOTHING
from connections.dashboard.sites import linking_within, make_page_url
from connections.models.prefix import starts_with
from sessions_history import member_admin as member_admin
from sessions_history.entries import merge_chunks
from sessions_history.models import HistoryEntry, Session

_SHOWN_CHARACTERS = 200
_MOST_SESSIONS = 10
_MOST_PER_SESSION = 50
_OF_SESSION = "session__session_id__exact"


class _LogAdmin(ReadOnlyAdmin):
    """Read-only rows: the log writes them, and retention deletes them."""

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> Any:
        config = get_config()
        subtitle = (
            f"At most {config.max_session_history} entries of a session are kept"
            f" (max_session_history), and a session for"
            f" {config.retention.sessions_days:g} days after its last use"
            f" (retention.sessions_days)."
        )
        context = {**(extra_context or {}), "subtitle": subtitle}
        return super().changelist_view(request, context)


@admin.register(Session)
class SessionAdmin(UserSearch, _LogAdmin):
    list_display = (
        "session_id",
        "client_id",
        "user",
        "title",
        "last_offset",
        "last_seen_at",
        "created_at",
        "entries",
    )
    ordering = ("-last_seen_at",)
    search_fields = ("session_id",)
    search_help_text = (
        "Search by the full id of a session, the beginning of a client id, or a full "
        "user name."
    )
    searched_key = "session_id"
    sortable_by = ()
    readonly_fields = ("entries",)

    @admin.display(description="entries")
    def entries(self, session: Session) -> str:
        with linking_within(self.admin_site.name):
            url = make_page_url("sessions_history_historyentry_changelist")
        if not url:
            return NOTHING
        return format_html(
            '<a href="{}?session__session_id__exact={}">entries</a>',
            url,
            session.session_id,
        )


class StateFilter(admin.SimpleListFilter):
    """Filter entries by state; the index of those that are not done is partial."""

    title = "state"
    parameter_name = "state__exact"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return list(HistoryEntry.State.choices)

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        value = self.value()
        found = queryset.filter(state=value) if value else queryset
        done = HistoryEntry.State.DONE
        return found if value in (None, done) else found.exclude(state=done)


@admin.register(HistoryEntry)
class HistoryEntryAdmin(_LogAdmin):
    list_display = ("session", "offset", "at", "sender", "kind", "state", "beginning")
    list_filter = (StateFilter, "sender")
    linked_lookups = (_OF_SESSION,)
    list_select_related = ()
    search_fields = ("session__session_id",)
    search_help_text = (
        "Search by the full id of a session, or the beginning of a client id: the "
        f"newest {_MOST_PER_SESSION} entries of its last {_MOST_SESSIONS} sessions."
    )
    sortable_by = ()
    exclude = ("data",)
    readonly_fields = ("whole",)

    def get_ordering(self, request: HttpRequest) -> tuple[str]:
        # The entries of one session are in an index by their offset.
        return ("-offset",) if _OF_SESSION in request.GET else ("-id",)

    def search(
        self, request: HttpRequest, queryset: Any, search_term: str
    ) -> tuple[Any, bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        of_client = Session.objects.filter(starts_with("client_id", term))
        newest = of_client.order_by("-last_seen_at")[:_MOST_SESSIONS]
        keys: set[int] = set()
        # A query for each: PostgreSQL would look for all among the newest entries.
        for session_id in {term, *newest.values_list("pk", flat=True)}:
            entries = queryset.filter(session=session_id).order_by("-offset")
            keys.update(entries.values_list("pk", flat=True)[:_MOST_PER_SESSION])
        return queryset.filter(pk__in=keys), False

    def get_queryset(self, request: HttpRequest) -> QuerySet[HistoryEntry]:
        found = HistoryEntry.objects.with_chunks().prefetch_related("session")
        return found.order_by(*self.get_ordering(request))

    @admin.display(description="data")
    def whole(self, entry: Any) -> str:
        return merge_chunks(entry.data, entry.chunks)

    @admin.display(description="data")
    def beginning(self, entry: Any) -> str:
        text = self.whole(entry)
        is_longer = len(text) > _SHOWN_CHARACTERS
        return text[:_SHOWN_CHARACTERS] + ("…" if is_longer else "")
