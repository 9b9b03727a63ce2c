"""Read-only mode: the admin shows everything and permits no action."""

from typing import Any

from django.http import HttpRequest

from connections.actions.permissions import is_read_only
from connections.dashboard.bounded_lists import BoundedList


class GuardedAdmin(BoundedList):
    """Rows that staff cannot create, change or delete in read-only mode."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return not is_read_only() and super().has_add_permission(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return not is_read_only() and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return not is_read_only() and super().has_delete_permission(request, obj)
