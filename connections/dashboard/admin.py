"""Register the dashboard with Django admin: its pages and their permissions."""

from dataclasses import replace
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, get_script_prefix, path
from django.utils.decorators import method_decorator
from django.utils.http import urlencode
from django.views.decorators.gzip import gzip_page

from connections.actions.registry import find_allowed
from connections.alerts.runbook import read_sections
from connections.dashboard.action_views import show_action, show_result
from connections.dashboard.cache import shared
from connections.dashboard.consumers import PATH
from connections.dashboard.details import describe_client, describe_connection
from connections.dashboard.filters import GROUPINGS, RANGES, TOPS, Selection
from connections.dashboard.forecast import describe_forecast
from connections.dashboard.outage import View, explain_outage, show_without_database
from connections.dashboard.runbook import render
from connections.dashboard.sites import make_page_url

_NAME = "connections_livedashboard"
_TEMPLATES = "admin/connections/livedashboard"


class LiveDashboardAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Show the dashboard in place of a list of rows."""

    shared = shared

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_urls(self) -> list[URLPattern]:
        site, guard = self.admin_site.name, self.admin_site.admin_view

        def show(view: View) -> View:
            return explain_outage(show_without_database(guard(view), view), site)

        return [
            path(
                "",
                show(self.changelist_view),
                name="connections_livedashboard_changelist",
            ),
            path("panels/", show(self.show_panels), name="connections_live_panels"),
            path("details/", show(self.show_details), name="connections_live_details"),
            path(
                "action/<str:name>/",
                explain_outage(guard(self.action), site),
                name="connections_live_action",
            ),
            path(
                "result/",
                explain_outage(guard(self.show_result), site),
                name="connections_live_result",
            ),
            path(
                "forecast/", show(self.show_forecast), name="connections_live_forecast"
            ),
            path("runbook/", show(self.show_runbook), name="connections_live_runbook"),
        ]

    @method_decorator(gzip_page)
    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the whole dashboard; it works without JavaScript."""
        self._require_view(request)
        selection = self._read_selection(request)
        site = {"site": selection.site}
        context: dict[str, Any] = {
            **self._get_context(request),
            "title": "Live dashboard",
            "selection": selection,
            "socket_path": f"{get_script_prefix()}{PATH}?{urlencode(site)}",
            "poll_url": make_page_url("connections_live_panels"),
            "details_url": make_page_url("connections_live_details"),
            "ranges": [(name, selection.query(range=name)) for name in RANGES],
            "tops": [(name, selection.query(top=name)) for name in TOPS],
            "groupings": [(name, selection.query(by=name)) for name in GROUPINGS],
        }
        snapshot = self.shared.get_snapshot()
        allowed = find_allowed(request.user)
        context |= {
            "snapshot": snapshot,
            "panels": self.shared.get_panels(selection, allowed).html,
            "nodes": [one for one in snapshot.nodes if one.node_id in snapshot.seen],
            "routes": sorted({one.route for one in snapshot if one.route}),
        }
        return TemplateResponse(
            request, f"{_TEMPLATES}/page.html", {**context, **(extra_context or {})}
        )

    @method_decorator(gzip_page)
    def show_panels(self, request: HttpRequest) -> HttpResponseBase:
        """Return the panels as JSON, for browsers without a WebSocket."""
        self._require_view(request)
        selection = self._read_selection(request)
        panels = self.shared.get_panels(selection, find_allowed(request.user))
        return JsonResponse(panels.as_message())

    def show_details(self, request: HttpRequest) -> HttpResponse:
        """Return the details of a connection or client, as an HTML fragment."""
        self._require_view(request)
        snapshot = self.shared.get_snapshot()
        key, client_id = request.GET.get("key", ""), request.GET.get("client", "")
        found = snapshot.find(key) if key else None
        allowed = find_allowed(request.user)
        context: dict[str, Any] = {"key": key, "client_id": client_id}
        if found is not None:
            context |= describe_connection(snapshot, *found, allowed)
        elif client_id:
            region = request.GET.get("region", "")
            context |= describe_client(snapshot, client_id, region, allowed)
        return TemplateResponse(request, f"{_TEMPLATES}/details.html", context)

    def action(self, request: HttpRequest, name: str) -> HttpResponse:
        """Confirm and perform an action."""
        self._require_view(request)
        return show_action(request, name, self.shared, self._get_context(request))

    def show_result(self, request: HttpRequest) -> HttpResponse:
        """Show the result of an action."""
        self._require_view(request)
        return show_result(request, self.shared, self._get_context(request))

    def show_forecast(self, request: HttpRequest) -> HttpResponse:
        """Show whom limits would have affected."""
        self._require_view(request)
        context = {
            **self._get_context(request),
            "title": "Forecast of limits",
            **describe_forecast(request),
        }
        return TemplateResponse(request, f"{_TEMPLATES}/forecast.html", context)

    def show_runbook(self, request: HttpRequest) -> HttpResponse:
        """Show the section of each alert rule."""
        self._require_view(request)
        sections = [(name, render(text)) for name, text in read_sections().items()]
        context = {
            **self._get_context(request),
            "title": "Runbook",
            "sections": sections,
        }
        return TemplateResponse(request, f"{_TEMPLATES}/runbook.html", context)

    def _read_selection(self, request: HttpRequest) -> Selection:
        selection = Selection.parse(request.GET.dict())
        return replace(selection, site=self.admin_site.name)

    def _get_context(self, request: HttpRequest) -> dict[str, Any]:
        return {**self.admin_site.each_context(request), "opts": self.opts}

    def _require_view(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied
