"""Check what users may do: read-only mode, and the tokens of other users."""

from typing import Any

from connections.config.loader import get_config


def is_read_only() -> bool:
    """Return True if the configuration forbids actions."""
    return get_config().dashboard.read_only


def may_act_for(author: Any, user: Any) -> bool:
    """Return True if an author may create a token that acts as a user."""
    # A model of users without PermissionsMixin lacks some of these.
    if getattr(author, "is_superuser", False) or author.pk == user.pk:
        return True
    if getattr(user, "is_superuser", False) or not user.is_active:
        return False
    permissions: set[str] = getattr(user, "get_all_permissions", set)()
    needed = {"connections.impersonate_accesstoken", *permissions}
    return all(map(author.has_perm, needed))
