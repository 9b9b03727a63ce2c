"""Register access tokens and the read-only lists of recorded models."""

from datetime import datetime
from typing import Any

from django import forms
from django.contrib import admin
from django.db import models
from django.http import HttpRequest
from django.utils import timezone

from connections.access.bans import impose, lift
from connections.admin.access_tokens import AccessTokenAdmin
from connections.admin.error_groups import ErrorPages
from connections.admin.node_pages import NodePages
from connections.admin.read_only import ReadOnlyAdmin
from connections.audit import acting, name_author
from connections.dashboard.admin import LiveDashboardAdmin
from connections.dashboard.charts.scales import NOTHING, format_seconds
from connections.dashboard.listing import ConnectionList
from connections.dashboard.permissions import GuardedAdmin
from connections.dashboard.time_columns import show_times
from connections.models import (
    AccessToken,
    Alert,
    AuditEntry,
    Ban,
    Connection,
    ErrorEvent,
    LiveDashboard,
    Node,
)
from connections.models.alias import atomic

admin.site.register(AccessToken, AccessTokenAdmin)
admin.site.register(LiveDashboard, LiveDashboardAdmin)


@admin.register(Connection)
class ConnectionAdmin(ReadOnlyAdmin, ConnectionList):
    """All connections within the retention period."""


@admin.register(Node)
class NodeAdmin(NodePages):
    list_display = (
        "__str__",
        "version",
        "state",
        "open",
        "beaten",
        "started",
        "stopped",
    )
    list_filter = ("state",)
    search_fields = ("=node_id", "host")

    @admin.display(description="open", ordering="open_connections")
    def open(self, row: Node) -> int:
        return row.open_connections

    @admin.display(description="last beat", ordering="beat_at")
    def beaten(self, row: Node) -> str:
        return _format_age(row.beat_at)

    @admin.display(description="started", ordering="started_at")
    def started(self, row: Node) -> str:
        return _format_age(row.started_at)

    @admin.display(description="stopped", ordering="stopped_at")
    def stopped(self, row: Node) -> str:
        return _format_age(row.stopped_at) if row.stopped_at else NOTHING


def _format_age(moment: datetime) -> str:
    seconds = (timezone.now() - moment).total_seconds()
    return f"{format_seconds(max(0.0, seconds))} ago"


@admin.register(Alert)
class AlertAdmin(ReadOnlyAdmin):
    list_display = (
        "rule",
        "severity",
        "state",
        "value",
        "peak",
        "threshold",
        "detail",
        "since",
        "fired_at",
        "resolved_at",
        "mailed_state",
        "mail_error",
    )
    list_filter = ("state", "severity", "rule")

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Alert]:
        return super().get_queryset(request).filter(is_test=False)


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    """What staff, commands, the API and rules did."""

    list_display = ("at", "actor", "via", "action", "target", "value", "reason")
    list_filter = ("via",)
    ordering = ("-id",)
    sortable_by = ()
    search_fields = ("=actor", "=value")
    search_help_text = "Search by the full name of an actor, or the value of a target."

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return show_times(AuditEntry, (*self.list_display, "facts"))


_MOST_RECENT = 1000


class ClassFilter(admin.SimpleListFilter):
    """Filter errors by the class of their exception; recent classes are offered."""

    title = "exception class"
    parameter_name = "exception_class"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        newest = ErrorEvent.objects.order_by("-at")[:_MOST_RECENT]
        names = set(newest.values_list("exception_class", flat=True))
        if chosen := self.value():
            names.add(chosen)
        return [(name, name) for name in sorted(names)]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        value = self.value()
        return queryset.filter(exception_class=value) if value else queryset


@admin.register(ErrorEvent)
class ErrorEventAdmin(ErrorPages):
    list_display = ("error_id", "at", "exception_class", "where", "route", "connection")
    list_filter = (ClassFilter,)
    # No join: errors outlive the rows of deleted nodes.
    list_select_related = ()
    linked_lookups = ("connection__connection_id", "exception_class", "where")
    ordering = ("-at",)
    search_fields = ("error_id",)
    search_help_text = "Search by the full id of an error or of a connection."
    sortable_by = ()

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[ErrorEvent]:
        return super().get_queryset(request).prefetch_related("connection")

    def list_searches(self, term: str) -> list[models.Q]:
        return [models.Q(error_id=term), models.Q(connection_id=term)]


class BanForm(forms.ModelForm):  # type: ignore[type-arg]
    """The fields of a ban, which may be over only if it was there before."""

    def clean_until(self) -> datetime | None:
        until: datetime | None = self.cleaned_data["until"]
        if self.instance.pk is None and until and until <= timezone.now():
            raise forms.ValidationError("Enter a time in the future, or none.")
        return until


@admin.register(Ban)
class BanAdmin(GuardedAdmin):
    """Bans take effect when they are saved or deleted here."""

    form = BanForm
    list_display = ("value", "target", "reason", "author", "created_at", "until")
    list_filter = ("target",)
    search_fields = ("value", "reason")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        # A ban of another target would be another row.
        fixed = ("target", "value") if obj is not None else ()
        return show_times(Ban, (*fixed, "author", "created_at"))

    def save_model(
        self, request: HttpRequest, obj: Ban, form: object, change: bool
    ) -> None:
        obj.author = name_author(request.user)
        with acting(AuditEntry.Via.ADMIN):
            impose(obj)

    def delete_model(self, request: HttpRequest, obj: Ban) -> None:
        with acting(AuditEntry.Via.ADMIN):
            lift(obj, name_author(request.user))

    def delete_queryset(
        self, request: HttpRequest, queryset: models.QuerySet[Ban]
    ) -> None:
        with atomic():
            for ban in queryset:
                self.delete_model(request, ban)
