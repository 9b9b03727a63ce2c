"""
Refer to users, whose table may be in another database.

A database cannot check or join such a reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from django.apps import apps
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import models, router
from django.db.models.fields.related_descriptors import ForwardManyToOneDescriptor

from connections.exceptions import UserAmbiguous, UserNotFound
from connections.models.alias import get_alias

Row = TypeVar("Row", bound=models.Model)

_KEY_PREFIX = "key="


def get_users() -> Any:
    """Return the users' manager, which reads the database that takes their writes."""
    users = get_user_model()
    return users._default_manager.db_manager(router.db_for_write(users))


def find_user_keys(name: str, lookup: str = "exact") -> Sequence[Any]:
    """Return the keys of the users with a name; not every model has a username."""
    named = {f"{get_user_model().USERNAME_FIELD}__{lookup}": name}
    return list(get_users().filter(**named).values_list("pk", flat=True))


def find_by_login_name(name: str) -> Any:
    """
    Return the user with a login name; not every manager has natural keys.

    Raises:
        DoesNotExist: of the user model; there is no such user.
    """
    users = get_users()
    if hasattr(users, "get_by_natural_key"):
        return users.get_by_natural_key(name)
    return users.get(**{get_user_model().USERNAME_FIELD: name})


def find_user(text: str, *, prefers_key: bool = False) -> Any:
    """
    Return the user that a text names, by key or by login name; `key=7` is a key.

    Anybody may sign up with the key of another as a login name. With prefers_key,
    for texts that are keys where there is such a user, that is no ambiguity.

    Raises:
        UserNotFound: there is no such user.
        UserAmbiguous: it is the key of one user and the login name of another.
    """
    key = text.removeprefix(_KEY_PREFIX)
    by_key = _find_by_key(key)
    if key != text and by_key is None:
        raise UserNotFound(text)
    if by_key is not None and (prefers_key or key != text):
        return by_key
    try:
        by_name = find_by_login_name(text)
    except get_user_model().DoesNotExist as exc:
        if by_key is None:
            raise UserNotFound(text) from exc
        return by_key
    if by_key is not None and by_key.pk != by_name.pk:
        raise UserAmbiguous(text)
    return by_name


def _find_by_key(text: str) -> Any:
    """Return the user with a key, or None."""
    try:
        user = get_users().get(pk=text)
    except (get_user_model().DoesNotExist, ValueError, ValidationError):
        return None
    # Not for "007" or "0_7", which a field takes for 7 as well; a UUID has spellings.
    is_other = isinstance(user.pk, int) and str(user.pk) != text
    return None if is_other else user


def are_users_apart() -> bool:
    """Return True if users are in another database than these tables."""
    return router.db_for_write(get_user_model()) != get_alias()


def with_user(rows: models.QuerySet[Row]) -> models.QuerySet[Row]:
    """
    Return rows that come with their users, by a second query.

    Users may be in another database, and a join could keep PostgreSQL from reading
    the rows in the order of an index.
    """
    return rows.prefetch_related("user")


def cascade(collector: Any, field: Any, rows: Any, using: str) -> None:
    """Delete the rows of a deleted user; release_user() does in another database."""
    if using == get_alias():
        models.CASCADE(collector, field, rows, using)


def set_null(collector: Any, field: Any, rows: Any, using: str) -> None:
    """Clear the reference to a deleted user; release_user() does in another one."""
    if using == get_alias():
        models.SET_NULL(collector, field, rows, using)


# Django would otherwise look for rows in the database of the user.
cascade.lazy_sub_objs = True  # type: ignore[attr-defined]
set_null.lazy_sub_objs = True  # type: ignore[attr-defined]


def release_user(key: Any) -> None:
    """Delete or clear what refers to a user that was deleted in another database."""
    for model in apps.get_models():
        for field in model._meta.concrete_fields:
            if not isinstance(field, UserKey):
                continue
            rows = model._default_manager.filter(**{field.attname: key})
            if field.remote_field.on_delete is cascade:
                rows.delete()
            else:
                rows.update(**{field.attname: None})


class _UserDescriptor(ForwardManyToOneDescriptor):  # type: ignore[type-arg]
    """Reads a user from the database of users, not from that of the row."""

    field: Any

    def get_queryset(self, **hints: Any) -> models.QuerySet[Any]:
        users = self.field.remote_field.model
        alias = router.db_for_write(users)
        rows: models.QuerySet[Any] = users._base_manager.db_manager(alias).all()
        return rows

    def get_object(self, instance: models.Model) -> Any:
        # No constraint ensures that the user still exists.
        wanted = self.field.get_reverse_related_filter(instance)
        return self.get_queryset().filter(wanted).first()

    def __set__(self, instance: Any, value: Any) -> None:
        if value is None or not are_users_apart():
            super().__set__(instance, value)
            return
        # Django refuses relations between databases that no router allows.
        setattr(instance, self.field.attname, value.pk)
        self.field.set_cached_value(instance, value)


class UserKey(models.ForeignKey):  # type: ignore[type-arg]
    """A reference to a user without a constraint in the database."""

    forward_related_accessor_class = _UserDescriptor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"db_constraint": False, **kwargs})

    def validate(self, value: Any, model_instance: models.Model | None) -> None:
        """Look for the user in the database of users, not in that of the row."""
        super().validate(value, None)
