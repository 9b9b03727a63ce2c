"""Find users by the names that operators type."""

from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import CommandError

from connections.models.user_key import get_users


def find_user(name: str) -> Any:
    """
    Return the user with a login name.

    Raises:
        CommandError: no such user exists.
    """
    users = get_user_model()
    try:
        return get_users().get_by_natural_key(name)
    except users.DoesNotExist as exc:
        raise CommandError(f"there is no user {name!r}") from exc
