"""Search rows of the admin by the name of their user."""

from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest

from connections.dashboard.bounded_lists import BoundedList
from connections.models.user_key import find_user_keys, with_user


class UserSearch(BoundedList):
    """Rows with a user, whose table may be in another database."""

    # Django 6.1 would otherwise join the users, because the list shows them.
    list_select_related = ()

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return with_user(super().get_queryset(request))

    def search(
        self, request: HttpRequest, queryset: Any, search_term: str
    ) -> tuple[Any, bool]:
        found, has_duplicates = super().search(request, queryset, search_term)
        if keys := search_term and find_user_keys(search_term.strip(), "iexact"):
            found |= queryset.filter(user__in=keys)
        return found, has_duplicates
