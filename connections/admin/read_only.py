"""Admin classes for models that staff can view but not change."""

from django.db import models
from django.http import HttpRequest

from connections.dashboard.bounded_lists import BoundedList


class ReadOnlyAdmin(BoundedList):
    """Rows that only nodes and the sweeper write."""

    show_full_result_count = False
    list_per_page = 50

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(
        self, request: HttpRequest, obj: models.Model | None = None
    ) -> bool:
        return False

    def has_delete_permission(
        self, request: HttpRequest, obj: models.Model | None = None
    ) -> bool:
        return False
