"""Find the method of a consumer for a message, and check what a consumer defines."""

from collections.abc import Callable, Iterable
from typing import Any

from connections.asgi import Message
from connections.connection.compat import get_handler_name
from connections.connection.layer_messages import is_callable_by_type
from connections.exceptions import InvalidMessage, UnknownEvent

INVALID_JSON = (ValueError, RecursionError)
"""The exceptions of a JSON decoder."""


def find_method(consumer: object, message: Message) -> Callable[[Message], Any]:
    """
    Return the method for an event.

    Raises:
        UnknownEvent: there is none.
    """
    try:
        name = get_handler_name(message)
    except (ValueError, AttributeError, TypeError) as exc:
        raise UnknownEvent(message.get("type")) from exc
    method: Callable[[Message], Any] | None = getattr(consumer, name, None)
    if method is None or not is_callable_by_type(type(consumer), name):
        raise UnknownEvent(message["type"])
    return method


def require_text(text_data: str | None) -> str:
    """
    Return the text of a message.

    Raises:
        InvalidMessage: it is a binary one.
    """
    if text_data is None:
        raise InvalidMessage("invalid_message", "a binary frame; send JSON as text")
    return text_data


def make_invalid_json() -> InvalidMessage:
    """Return the error for a text with which a JSON decoder failed."""
    return InvalidMessage("invalid_json", "not valid JSON")


def find_json_method(consumer: object, content: Any) -> Callable[..., Any]:
    """
    Return the handle_<type> method that a JSON message names.

    Raises:
        InvalidMessage: there is none.
    """
    kind = content.get("type") if isinstance(content, dict) else None
    if not isinstance(kind, str):
        raise InvalidMessage("invalid_message", "not an object with a type")
    name = f"handle_{kind}"
    method: Callable[..., Any] | None = getattr(consumer, name, None)
    if method is None or not name.isidentifier():
        raise InvalidMessage("unknown_type", f"no messages of type {kind[:64]!r}")
    return method


def require_groups(groups: object) -> Iterable[str]:
    """
    Return the groups of a consumer.

    Raises:
        TypeError: they are no list of names; a str would be a group per letter.
    """
    if not isinstance(groups, list | tuple | set | frozenset):
        raise TypeError(f"groups is a list of names, not {type(groups).__name__}")
    return groups
