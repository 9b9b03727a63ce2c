"""Check and arrange the classes that projects derive from limited consumers."""

import inspect
from collections.abc import Collection
from typing import Any

from channels.consumer import AsyncConsumer

from connections.exceptions import ReservedName

_METHODS = {
    "get_client_id": "scope",
    "get_limits": "scope",
    "is_activity": "message",
}
"""The methods that Orchestra calls, with the argument of each."""

_NAMES = ("permission_required", "groups_required")
"""The attributes that hold a name or several."""


def put_libraries_first(cls: type, limited: type) -> None:
    """
    Order the bases of a class so that a library's methods precede Orchestra's.

    `limited` is the base of the limited consumers. They stand in for classes of
    Channels, and Python puts a class of Channels behind all that are derived from
    it. A limited consumer that is named first would hide a library's methods.
    """
    ours = next(one for one in cls.__mro__ if one.__module__ == limited.__module__)
    behind = cls.__mro__[cls.__mro__.index(ours) :]
    if any(_is_library(one, limited) for one in behind):
        others = (base for base in cls.__bases__ if base is not ours)
        cls.__bases__ = (*others, ours)


def check_names(cls: type) -> None:
    """
    Check that a class uses the names that Orchestra reads as Orchestra means them.

    Raises:
        ReservedName: an attribute is something else.
    """
    for name, argument in _METHODS.items():
        if not _takes_arguments(cls, name, 1):
            raise ReservedName(
                cls, name, f"a method with the arguments self, {argument}"
            )
    for name in _NAMES:
        if not _is_names(inspect.getattr_static(cls, name)):
            raise ReservedName(cls, name, "a text, or several in a list or tuple")
    if not _is_presence(cls):
        raise ReservedName(
            cls, "presence", "True, False, or a method with the argument self alone"
        )
    if not isinstance(inspect.getattr_static(cls, "is_json"), bool):
        raise ReservedName(cls, "is_json", "True or False")


def _is_library(cls: type, limited: type) -> bool:
    """Return True for a consumer that is neither Channels' nor a limited one."""
    return (
        issubclass(cls, AsyncConsumer)
        and not issubclass(cls, limited)
        and cls.__module__.partition(".")[0] != "channels"
    )


def _takes_arguments(cls: type, name: str, count: int) -> bool:
    """Return True for a method that takes some arguments beside its object."""
    attribute = inspect.getattr_static(cls, name)
    is_bound = isinstance(attribute, staticmethod | classmethod)
    method = getattr(cls, name)
    if not callable(method):
        return False
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):
        # Some callables of C have none.
        return True
    try:
        signature.bind(*[None] * (count if is_bound else count + 1))
    except TypeError:
        return False
    return True


def _is_presence(cls: type) -> bool:
    presence = inspect.getattr_static(cls, "presence")
    return isinstance(presence, bool) or _takes_arguments(cls, "presence", 0)


def _is_names(value: Any) -> bool:
    if isinstance(value, property | str):
        return True
    return isinstance(value, Collection) and all(isinstance(one, str) for one in value)
