"""Find which fields of a row a save has changed, without a query."""

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from django.db.models import Model
from django.db.models.signals import post_init, pre_save

_LOADED = "_connections_loaded"


class Change(NamedTuple):
    """The names of the fields that a save has changed, and the row before it."""

    fields: frozenset[str]
    before: Any


def watch_changes(models: Iterable[type[Model]]) -> None:
    """Keep the loaded values of the rows of these models from now on."""
    for model in models:
        uid = f"connections.loaded.{model._meta.label}"
        post_init.connect(_remember, model, dispatch_uid=uid)
        pre_save.connect(_forget_if_unread, model, dispatch_uid=uid)


def take_change(row: Model, update_fields: Collection[str] | None) -> Change | None:
    """
    Return what a save has changed since the row was loaded or saved.

    None if that is unknown, as for a row that was made by hand, or for a field that
    was loaded later. A value that was changed in place, as of a JSON field, does
    not count.
    """
    values = row.__dict__
    loaded: dict[str, Any] | None = values.pop(_LOADED, None)
    values[_LOADED] = now = values.copy()
    if loaded is None:
        return None
    fields: set[str] = set()
    before = object.__new__(type(row))  # Without the signals of a new row.
    before.__dict__.update(values)
    for field in row._meta.concrete_fields:
        name = field.attname
        if name not in values:
            continue  # It is deferred, so it was not saved.
        if name not in loaded:
            return None
        if update_fields is not None and not {field.name, name} & set(update_fields):
            now[name] = loaded[name]  # A later save may write it.
        elif _differ(loaded[name], values[name]):
            fields.add(field.name)
            before.__dict__[name] = loaded[name]
    return Change(frozenset(fields), before)


def _differ(old: Any, new: Any) -> bool:
    """Compare values of a field; those that cannot be compared count as changed."""
    try:
        return bool(old != new)
    except Exception:
        return True  # Arrays of numpy, as pgvector has them, give no bool.


def _remember(instance: Model, **kwargs: Any) -> None:
    instance.__dict__[_LOADED] = instance.__dict__.copy()


def _forget_if_unread(instance: Model, **kwargs: Any) -> None:
    """Forget the values of a row that was made by hand: it may overwrite another."""
    if instance._state.adding:
        instance.__dict__.pop(_LOADED, None)
