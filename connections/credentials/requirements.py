"""Check the permissions and groups that consumers require of users."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib.auth import get_backends, get_user_model
from django.contrib.auth.backends import BaseBackend, ModelBackend
from django.contrib.auth.models import PermissionsMixin
from django.db import DatabaseError

from connections.models.user_key import get_users

_DECISIONS = (
    "has_perm",
    "get_all_permissions",
    "get_user_permissions",
    "get_group_permissions",
    "with_perm",
)
"""The methods of a backend that decide about permissions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """
    Permissions and groups that a user needs; an active superuser has all.

    With `is_staff` the user must be one of the staff, as for the admin.
    """

    permissions: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    is_staff: bool = False

    def __bool__(self) -> bool:
        return bool(self.permissions or self.groups or self.is_staff)

    @classmethod
    def read(
        cls, permissions: str | Sequence[str], groups: str | Sequence[str]
    ) -> "Requirements":
        """Return the requirements for the attributes of a consumer."""
        if not permissions and not groups:
            return NO_REQUIREMENTS
        return cls(permissions=_as_tuple(permissions), groups=_as_tuple(groups))


NO_REQUIREMENTS = Requirements()
"""Those of most connections, which share it."""


def find_lacking(
    wanted: Iterable[tuple[Requirements, Any]],
) -> dict[tuple[Any, Any], Exception | None]:
    """
    Return the pairs of requirements and user key that are not fulfilled.

    Runs one query for each permission and one for all groups, for any number of
    users. A backend with its own decisions is called for each user; a pair for
    which it raises comes with the exception.
    """
    pairs = {(needs, user.pk): user for needs, user in wanted if needs}
    ordinary = {
        key: user
        for key, user in pairs.items()
        if not (user.is_active and getattr(user, "is_superuser", False))
    }
    groups = _read_groups(ordinary)
    permitted, failed = _read_permitted(ordinary)
    strangers: dict[tuple[Any, Any], Exception | None] = {
        (needs, key): None
        for (needs, key), user in pairs.items()
        if needs.is_staff and not getattr(user, "is_staff", False)
    }
    return strangers | {
        (needs, key): failed.get(key)
        for needs, key in ordinary
        if not all((name, key) in groups for name in needs.groups)
        or not all((name, key) in permitted for name in needs.permissions)
    }


Wanted = Mapping[tuple[Requirements, Any], Any]


def _read_groups(wanted: Wanted) -> set[tuple[str, Any]]:
    """Return the pairs of group name and user key for memberships."""
    names = {name for needs, _ in wanted for name in needs.groups}
    if not names:
        return set()
    keys = {key for needs, key in wanted if needs.groups}
    found = get_users().filter(pk__in=keys, is_active=True, groups__name__in=names)
    return set(found.values_list("groups__name", "pk"))


def _read_permitted(
    wanted: Wanted,
) -> tuple[set[tuple[str, Any]], dict[Any, Exception]]:
    """
    Return the pairs of permission and user key for granted permissions.

    The second value is the exceptions of a project's backend, by user key.
    """
    users: dict[str, dict[Any, Any]] = {}
    for (needs, key), user in wanted.items():
        for name in needs.permissions:
            users.setdefault(name, {})[key] = user
    backends = get_backends()
    if not has_stock_permissions():
        return _ask_backends(users)
    return {
        (name, key)
        for name, candidates in users.items()
        for backend in backends
        if isinstance(backend, ModelBackend)
        for key in backend.with_perm(name)
        .using(get_users().db)
        .filter(pk__in=candidates)
        .values_list("pk", flat=True)
    }, {}


def _ask_backends(
    users: Mapping[str, Mapping[Any, Any]],
) -> tuple[set[tuple[str, Any]], dict[Any, Exception]]:
    """Ask for each permission of each user; return the granted and the failed."""
    granted: set[tuple[str, Any]] = set()
    failed: dict[Any, Exception] = {}
    for name, candidates in users.items():
        for key, user in candidates.items():
            try:
                if user.has_perm(name):
                    granted.add((name, key))
            except DatabaseError:
                raise  # It concerns all of them.
            except Exception as exc:
                failed[key] = exc
    return granted, failed


def has_stock_permissions() -> bool:
    """Return True if all permissions are those of the database, as Django's are."""
    return issubclass(get_user_model(), PermissionsMixin) and all(
        map(_has_stock_decisions, get_backends())
    )


def _has_stock_decisions(backend: Any) -> bool:
    """Return True if a backend's permissions are those of the database, or none."""
    own = type(backend)
    like: Any = ModelBackend if isinstance(backend, ModelBackend) else BaseBackend
    return all(
        getattr(own, name, None) in (None, getattr(like, name, None))
        for name in _DECISIONS
    )


def _as_tuple(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
