"""Lists and items of the API: each resource is a query and the columns of its rows."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import models

from connections.api.cursors import MOST_CHARACTERS, find_after, make_cursor
from connections.api.errors import not_found
from connections.api.kinds import MOMENT_SCHEMA, Line
from connections.api.parameters import Parameter
from connections.config.kinds import Kind, Whole
from connections.models.user_key import UserKey
from connections.units import as_utc

MOST_ROWS = 200
_ROWS = 50
_ROW_ID = re.compile(r"[0-9]{1,18}")

PAGING = (
    Parameter(
        name="limit",
        kind=Whole(1, MOST_ROWS),
        default=_ROWS,
        about=f"Items of a page; {_ROWS} without it.",
    ),
    Parameter(
        name="cursor",
        kind=Line(most=MOST_CHARACTERS),
        about="The next_cursor of the page before.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """A parameter that selects rows of a list."""

    kind: Kind
    about: str
    apply: Callable[[Any, Any], Any]
    """Returns the selected ones of some rows for a value."""

    default: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of the rows, and the JSON value that stands for it."""

    name: str
    schema: dict[str, Any]
    convert: Callable[[Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One list of the API, and its items."""

    name: str
    item: str
    """The glossary's word for one of them."""

    about: str
    permission: str
    rows: Callable[[], Any]
    order: tuple[str, ...]
    """Columns that are never null and together unique; an index has them."""

    key: str
    """The column that names an item in its URL."""

    fields: Mapping[str, str | Column]
    """The columns of a list, by their names in an answer."""

    details: Mapping[str, str | Column] = field(default_factory=dict)
    """The columns that only an item has."""

    filters: Mapping[str, Filter] = field(default_factory=dict)

    def list_parameters(self) -> tuple[Parameter, ...]:
        """Return the parameters of a list."""
        filters = (
            Parameter(name=name, kind=one.kind, about=one.about, default=one.default)
            for name, one in self.filters.items()
        )
        return (*filters, *PAGING)

    def list_columns(self, has_details: bool) -> dict[str, Column]:
        """Return the columns of an answer, with their types from the models."""
        rows = self.rows()
        named = {**self.fields, **(self.details if has_details else {})}
        return {
            name: one if isinstance(one, Column) else _make_column(rows, one)
            for name, one in named.items()
        }

    def read_page(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """Return a page of the list, and the cursor of the next one."""
        rows, limit = self.rows(), query["limit"]
        fields = {name: find_field(rows, name) for name in self._list_order()}
        for name, one in self.filters.items():
            if query[name] is not None:
                rows = one.apply(rows, query[name])
        if query["cursor"] is not None:
            rows = rows.filter(
                find_after(self.name, self.order, fields, query["cursor"])
            )
        columns = self.list_columns(has_details=False)
        names = {*(one.name for one in columns.values()), *fields}
        found = list(rows.order_by(*self.order).values(*names)[: limit + 1])
        has_more = len(found) > limit
        last = found[limit - 1] if has_more else None
        return {
            "items": [_convert_row(columns, row) for row in found[:limit]],
            "next_cursor": make_cursor(self.name, self.order, last) if last else None,
        }

    def read_item(self, text: str) -> dict[str, Any]:
        """
        Return one item.

        Raises:
            ApiError: 404, no item has this key.
        """
        rows = self.rows()
        is_number = isinstance(find_field(rows, self.key), models.IntegerField)
        if not (_ROW_ID.fullmatch(text) if is_number else is_key(text)):
            raise not_found(self.item, text)
        columns = self.list_columns(has_details=True)
        names = {one.name for one in columns.values()}
        found = rows.filter(**{self.key: text}).order_by().values(*names)[:1]
        for row in found:
            return _convert_row(columns, row)
        raise not_found(self.item, text)

    def _list_order(self) -> list[str]:
        return [name.removeprefix("-") for name in self.order]


_added: dict[str, Resource] = {}


def add_resource(resource: Resource) -> None:
    """Add a resource of another app; called when that app is ready."""
    _added[resource.name] = resource


def list_added() -> tuple[Resource, ...]:
    """Return the resources of other apps."""
    return tuple(_added.values())


def is_key(text: str) -> bool:
    """Return True if a text can be the key of a row."""
    try:
        Line().parse(text)
    except ValueError:
        return False
    return True


def find_field(rows: Any, name: str) -> Any:
    """Return the field of a column, or of an annotation."""
    annotation = rows.query.annotations.get(name)
    if annotation is not None:
        return annotation.output_field
    return rows.model._meta.get_field(name)


def _make_column(rows: Any, name: str) -> Column:
    """Return a column with the schema of its field."""
    one = find_field(rows, name)
    convert: Callable[[Any], Any] = _keep
    if isinstance(one, models.ForeignKey):
        schema: dict[str, Any] = {"type": "string"}
        if isinstance(one, UserKey):
            convert = str
    elif isinstance(one, models.JSONField):
        return Column(name=name, schema={}, convert=_keep)
    elif isinstance(one, models.DateTimeField):
        schema, convert = dict(MOMENT_SCHEMA), _show_moment
    elif isinstance(one, models.FloatField):
        schema = {"type": "number"}
    elif isinstance(one, models.IntegerField):
        schema = {"type": "integer"}
    else:
        schema = {"type": "string"}
    if one.help_text:
        schema["description"] = str(one.help_text)
    if one.null:
        schema["type"] = [schema["type"], "null"]
    return Column(name=name, schema=schema, convert=convert)


def _keep(value: Any) -> Any:
    return value


def _show_moment(moment: datetime) -> str:
    return as_utc(moment).isoformat()


def _convert_row(
    columns: Mapping[str, Column], row: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        name: None if row[one.name] is None else one.convert(row[one.name])
        for name, one in columns.items()
    }
