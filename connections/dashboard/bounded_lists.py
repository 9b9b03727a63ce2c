"""
Lists in the admin whose queries staff choose from, but cannot write.

Each query finds the rows that it shows by an index, also among millions.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db.models import Q
from django.http import HttpRequest
from django.urls import URLPattern
from django.utils.functional import cached_property

from connections.dashboard.outage import explain_outage
from connections.dashboard.time_columns import show_times
from connections.storage.text import is_storable

MAX_SEARCH_CHARACTERS = 255
MAX_SEARCH_WORDS = 10

MOST_COUNTED = 10_000
MOST_FOUND = 100
"""The most rows that a search finds by one condition, the first of the list."""

_VALUE_CHARACTERS = 255
_FIELD_LOOKUPS = ("", "__exact", "__id__exact", "__isnull", "__gte", "__lt")
"""What Django's filters append to a field (django/contrib/admin/filters.py)."""


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """Count at most MOST_COUNTED rows, because counting a million is slow."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        counted: int = rows.order_by().values("pk")[:MOST_COUNTED].count()
        return counted


class BoundedChangeList(ChangeList):
    """Rows in one order, that of an index, if `sortable_by` is empty."""

    def get_ordering(self, request: HttpRequest, queryset: Any) -> list[Any]:
        if self.model_admin.sortable_by == ():
            # Django would add the primary key, by which no index goes on: then
            # PostgreSQL without statistics reads and sorts all rows of a filter.
            return list(self.model_admin.get_ordering(request))
        return super().get_ordering(request, queryset)


class BoundedList(admin.ModelAdmin):  # type: ignore[type-arg]
    """
    Rows that staff filter by `list_filter` and `linked_lookups` alone.

    Django permits any lookup of a model's own fields in the query string. A
    regular expression runs in Python on SQLite, so one request could stop the
    process, and a comparison reveals fields that no page shows.
    """

    linked_lookups: tuple[str, ...] = ()
    """Lookups that links of other pages use."""

    paginator = BoundedPaginator

    # Facet counts would scan all rows once per filter.
    show_facets = admin.ShowFacets.NEVER

    def list_pages(self) -> list[URLPattern]:
        """Return the pages that Django's admin does not have."""
        return []

    def get_urls(self) -> list[URLPattern]:
        urls = [*self.list_pages(), *super().get_urls()]
        for pattern in urls:
            pattern.callback = explain_outage(pattern.callback, self.admin_site.name)
        return urls

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return BoundedChangeList

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        return show_times(self.model, super().get_list_display(request))

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        fieldsets: Any = super().get_fieldsets(request, obj)
        if obj is None or self.has_change_permission(request, obj):
            return fieldsets
        return [
            (name, {**options, "fields": show_times(self.model, options["fields"])})
            for name, options in fieldsets
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return show_times(self.model, super().get_readonly_fields(request, obj))

    def lookup_allowed(
        self, lookup: str, value: str, request: HttpRequest | None = None
    ) -> bool:
        """Return True for the lookups of filters and links, and storable values."""
        if len(value) > _VALUE_CHARACTERS or not is_storable(value):
            return False
        return lookup in self.linked_lookups or lookup in self._list_lookups()

    def get_search_results(
        self, request: HttpRequest, queryset: Any, search_term: str
    ) -> tuple[Any, bool]:
        """Search, unless the term is too long for a bounded query."""
        words = len(search_term.split())
        if len(search_term) > MAX_SEARCH_CHARACTERS or words > MAX_SEARCH_WORDS:
            problem = (
                f"Search for at most {MAX_SEARCH_CHARACTERS} characters and "
                f"{MAX_SEARCH_WORDS} words."
            )
            self.message_user(request, problem, messages.ERROR)
            return queryset.none(), False
        return self.search(request, queryset, search_term)

    def search(
        self, request: HttpRequest, queryset: Any, search_term: str
    ) -> tuple[Any, bool]:
        """Return the rows for a term of bounded length, as get_search_results()."""
        term = search_term.strip()
        searches = self.list_searches(term) if term else None
        if searches is None:
            return super().get_search_results(request, queryset, search_term)
        keys: set[Any] = set()
        # A query for each: one with OR would read all rows.
        for condition in searches:
            found = queryset.filter(condition).order_by(*self.ordering or ())
            keys.update(found.values_list("pk", flat=True)[:MOST_FOUND])
        return queryset.filter(pk__in=keys), False

    def list_searches(self, term: str) -> Sequence[Q] | None:
        """
        Return the conditions that a search consists of, each found by an index.

        None stands for those of search_fields, in lists of few rows.
        """
        return None

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Any:
        if not is_storable(object_id):
            return None
        return super().get_object(request, object_id, from_field)

    def _list_lookups(self) -> Iterator[str]:
        listed: Any = self.list_filter
        for one in listed:
            if isinstance(one, str):
                yield from (f"{one}{suffix}" for suffix in _FIELD_LOOKUPS)
            else:
                yield getattr(one, "parameter_name", "")
