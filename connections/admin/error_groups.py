"""Pages of recorded errors: grouped by place, and one with its traceback."""

from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from connections.admin.read_only import ReadOnlyAdmin
from connections.dashboard.charts.sparkline import draw_sparkline
from connections.models import ErrorEvent
from connections.models.error_groups import (
    MOST_GROUPED,
    MOST_GROUPS,
    ErrorGroup,
    group_errors,
)
from connections.units import show_moment

_FOLDER = "admin/connections/errorevent"
_RANGE = "range"
_RANGES = {
    "1h": timedelta(hours=1),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
_DEFAULT = "24h"


class ErrorPages(ReadOnlyAdmin):
    """Show errors by place first; each group links to its errors."""

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not set(request.GET) <= {_RANGE}:
            return super().changelist_view(request, extra_context)
        if not self.has_view_permission(request):
            return super().changelist_view(request, extra_context)
        chosen = request.GET.get(_RANGE, _DEFAULT)
        span = _RANGES.get(chosen, _RANGES[_DEFAULT])
        end = timezone.now()
        found = group_errors(end - span, end)
        context = {
            **self.admin_site.each_context(request),
            **(extra_context or {}),
            "opts": self.opts,
            "title": "Errors by place",
            "ranges": list(_RANGES),
            "chosen": chosen if chosen in _RANGES else _DEFAULT,
            "groups": [_describe(one) for one in found.groups],
            "since": show_moment(found.since),
            "is_cut": found.is_cut,
            "most_grouped": MOST_GROUPED,
            "most_groups": MOST_GROUPS,
        }
        return TemplateResponse(request, f"{_FOLDER}/groups.html", context)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        fields = super().get_fields(request, obj)
        return ["lines" if one == "traceback" else one for one in fields]

    @admin.display(description="traceback")
    def lines(self, row: ErrorEvent) -> SafeString:
        return format_html('<pre class="live-traceback">{}</pre>', row.traceback)


def _describe(group: ErrorGroup) -> dict[str, Any]:
    """Return a group's row of the table."""
    query = {"exception_class": group.exception_class, "where": group.where}
    lines = group.sample.traceback.strip().splitlines() if group.sample else []
    return {
        "group": group,
        "query": urlencode(query),
        "first": show_moment(group.first_at),
        "last": show_moment(group.last_at),
        "line": draw_sparkline(group.steps),
        "message": lines[-1] if lines else "",
    }
