"""Search rows of the admin by the name of their user."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from connections.models.user_key import find_user_keys, with_user


class UserSearch(admin.ModelAdmin):  # type: ignore[type-arg]
    """Rows with a user, whose table may be in another database."""

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return with_user(super().get_queryset(request))

    def get_search_results(
        self, request: HttpRequest, queryset: Any, search_term: str
    ) -> tuple[Any, bool]:
        found, has_duplicates = super().get_search_results(
            request, queryset, search_term
        )
        if keys := search_term and find_user_keys(search_term.strip(), "iexact"):
            found |= queryset.filter(user__in=keys)
        return found, has_duplicates
