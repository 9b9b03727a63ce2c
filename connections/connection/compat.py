"""The undocumented names of Channels that consumers rely on."""

from collections.abc import Callable
from pkgutil import resolve_name

from connections.asgi import Message
from connections.dependencies import ForeignName, require_names

REQUIRED_NAMES = (ForeignName("channels", "channels.consumer:get_handler_name"),)
"""Names without which consumers do not work."""

require_names(REQUIRED_NAMES)

get_handler_name: Callable[[Message], str] = resolve_name(
    "channels.consumer:get_handler_name"
)
"""
channels/consumer.py: returns the name of the method for a message's type.

Raises ValueError for a message that has no type, or a type that begins with "_".
"""
