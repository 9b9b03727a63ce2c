"""Access tokens, and read-only lists of what the nodes recorded."""

from django.contrib import admin
from django.db import models
from django.http import HttpRequest

from connections.access_token_admin import AccessTokenAdmin
from connections.bans import impose, lift
from connections.dashboard.admin import LiveDashboardAdmin
from connections.dashboard.listing import ConnectionList
from connections.dashboard.read_only import GuardedAdmin
from connections.models import (
    AccessToken,
    Alert,
    Ban,
    Connection,
    ErrorEvent,
    LiveDashboard,
    Node,
)
from connections.read_only_admin import ReadOnlyAdmin

admin.site.register(AccessToken, AccessTokenAdmin)
admin.site.register(LiveDashboard, LiveDashboardAdmin)


@admin.register(Connection)
class ConnectionAdmin(ReadOnlyAdmin, ConnectionList):
    """Every connection of the retention period."""


@admin.register(Node)
class NodeAdmin(ReadOnlyAdmin):
    list_display = (
        "node_id",
        "host",
        "pid",
        "version",
        "state",
        "open_connections",
        "beat_at",
        "started_at",
        "stopped_at",
    )
    list_filter = ("state",)
    search_fields = ("=node_id", "host")


@admin.register(Alert)
class AlertAdmin(ReadOnlyAdmin):
    list_display = (
        "rule",
        "severity",
        "state",
        "value",
        "peak",
        "threshold",
        "since",
        "fired_at",
        "resolved_at",
        "mailed_state",
        "mail_error",
    )
    list_filter = ("state", "severity", "rule")

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Alert]:
        return super().get_queryset(request).filter(is_test=False)


@admin.register(ErrorEvent)
class ErrorEventAdmin(ReadOnlyAdmin):
    list_display = ("error_id", "at", "exception_class", "where", "route", "connection")
    list_filter = ("exception_class",)
    search_fields = ("=error_id", "=connection__connection_id")


@admin.register(Ban)
class BanAdmin(GuardedAdmin):
    """Bans take effect when they are saved or deleted here."""

    list_display = ("value", "target", "reason", "author", "created_at", "until")
    list_filter = ("target",)
    search_fields = ("value", "reason")

    def get_readonly_fields(
        self, request: HttpRequest, obj: Ban | None = None
    ) -> tuple[str, ...]:
        # Another target is another ban.
        whom = ("target", "value") if obj is not None else ()
        return (*whom, "author", "created_at")

    def save_model(
        self, request: HttpRequest, obj: Ban, form: object, change: bool
    ) -> None:
        obj.author = request.user.get_username()
        impose(obj)

    def delete_model(self, request: HttpRequest, obj: Ban) -> None:
        lift(obj)

    def delete_queryset(
        self, request: HttpRequest, queryset: models.QuerySet[Ban]
    ) -> None:
        for ban in queryset:
            lift(ban)
