"""Search rows of the admin by the name of their user."""

from typing import Any

from django.db.models import Q, QuerySet
from django.http import HttpRequest

from connections.dashboard.bounded_lists import BoundedList
from connections.models.prefix import starts_with
from connections.models.user_key import find_user_keys, with_user


class UserSearch(BoundedList):
    """Rows with a user, whose table may be in another database."""

    searched_key: str
    """A column with an index, searched beside the client and the user."""

    # Django 6.1 would otherwise join the users, because the list shows them.
    list_select_related = ()

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return with_user(super().get_queryset(request))

    def list_searches(self, term: str) -> list[Q]:
        by_user = [Q(user=key) for key in find_user_keys(term, "iexact")]
        return [
            Q(**{self.searched_key: term}),
            starts_with("client_id", term),
            *by_user,
        ]
