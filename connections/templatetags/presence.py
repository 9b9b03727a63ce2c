"""A template tag that tells whether a user is online."""

from collections.abc import Iterable
from typing import Any

from asgiref.sync import async_to_sync
from django import template

from connections.exceptions import PresenceUnavailable
from connections.presence import are_online

register = template.Library()

_KNOWN = "connections.presence"
"""The key, which no template can name, of what this rendering has read."""


@register.simple_tag(takes_context=True)
def online(
    context: template.Context, user: Any, among: Iterable[Any] | None = None
) -> bool | None:
    """
    Return True if a user, or a client by its id, is online; None if unknown.

    It is not known of None, of an anonymous user, and of one that is not saved.
    With `among`, a list that has the user, the first tag of a page reads all of its
    users in one round trip and the others nothing.
    """
    if not _has_name(user):
        return None
    known: dict[Any, bool] = context.dicts[0].setdefault(_KNOWN, {})
    if user not in known:
        users = [user, *filter(_has_name, among or ())]
        try:
            known.update(async_to_sync(are_online)(users))
        except PresenceUnavailable:
            known.update(dict.fromkeys(users))
    return known[user]


def _has_name(user: Any) -> bool:
    """Return True for a user that has a primary key, and for a client's id."""
    # A variable that the context lacks is an empty text.
    return (
        bool(user) if isinstance(user, str) else getattr(user, "pk", None) is not None
    )
