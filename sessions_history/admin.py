"""Show sessions and their entries in the admin, read-only."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from connections.admin.read_only import ReadOnlyAdmin
from connections.admin.user_search import UserSearch
from connections.config.loader import get_config
from sessions_history.entries import merge_chunks
from sessions_history.models import HistoryEntry, Session

_SHOWN_CHARACTERS = 200


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
        "last_offset",
        "last_seen_at",
        "created_at",
        "entries",
    )
    search_fields = ("=session_id", "client_id__startswith")
    readonly_fields = ("entries",)

    @admin.display(description="entries")
    def entries(self, session: Session) -> SafeString:
        url = reverse("admin:sessions_history_historyentry_changelist")
        return format_html(
            '<a href="{}?session__session_id__exact={}">entries</a>',
            url,
            session.session_id,
        )


@admin.register(HistoryEntry)
class HistoryEntryAdmin(_LogAdmin):
    list_display = ("session", "offset", "at", "sender", "kind", "state", "beginning")
    list_filter = ("state", "sender")
    linked_lookups = ("session__session_id__exact",)
    list_select_related = ("session",)
    ordering = ("-id",)
    search_fields = ("=session__session_id", "session__client_id__startswith")

    exclude = ("data",)
    readonly_fields = ("whole",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[HistoryEntry]:
        return HistoryEntry.objects.with_chunks().order_by(*self.ordering)

    @admin.display(description="data")
    def whole(self, entry: Any) -> str:
        return merge_chunks(entry.data, entry.chunks)

    @admin.display(description="data")
    def beginning(self, entry: Any) -> str:
        text = self.whole(entry)
        is_longer = len(text) > _SHOWN_CHARACTERS
        return text[:_SHOWN_CHARACTERS] + ("…" if is_longer else "")
