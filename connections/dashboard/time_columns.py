"""Columns and fields of the admin that show moments in the one format of all pages."""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from django.contrib import admin
from django.core.exceptions import FieldDoesNotExist
from django.db import models

from connections.units import show_moment


def show_times(model: type[models.Model], names: Iterable[Any]) -> list[Any]:
    """Return the names of columns, with a callable in place of each moment."""
    return [_replace(model, name) for name in names]


def _replace(model: type[models.Model], name: Any) -> Any:
    try:
        field = model._meta.get_field(name) if isinstance(name, str) else None
    except FieldDoesNotExist:
        return name
    return _make_column(field) if isinstance(field, models.DateTimeField) else name


@cache
def _make_column(field: Any) -> Callable[[Any], str]:
    @admin.display(description=field.verbose_name, ordering=field.name)
    def show(row: Any) -> str:
        return show_moment(getattr(row, field.name))

    show.__name__ = field.name
    return show
