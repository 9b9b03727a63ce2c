"""Send one message to all members of a group, encoded once."""

import json
from typing import Any

from channels.exceptions import InvalidChannelLayerError
from channels.layers import DEFAULT_CHANNEL_LAYER, get_channel_layer

from connections.asgi import Message
from connections.error_log import get_logger
from connections.layers.mailbox import GAP
from connections.layers.prepared_message import PreparedMessage

logger = get_logger(__name__)

BROADCAST = "orchestra.broadcast"
"""
The type of a group message that goes to the clients of all members, to no method.

It holds "version", "exclude" (the channel that gets none), either "text" or "bytes",
and "compress" where it is False. Nodes without broadcasts ignore the type, and log
that no method takes it.
"""

_VERSION = 1


async def broadcast(
    group: str,
    content: Any,
    *,
    exclude: str | None = None,
    compress: bool = True,
    using: str = DEFAULT_CHANNEL_LAYER,
) -> None:
    """
    Send a message to the clients of all members of a group, on all nodes.

    A str is sent as text, bytes as a binary message, and anything else as JSON. No
    method of a consumer runs. `exclude` is the channel_name of a member that gets
    none, `using` the alias of a channel layer. Without compress the message is sent as
    it is, as one that holds a secret must be. Synchronous code calls
    async_to_sync(broadcast).

    Raises:
        InvalidChannelLayerError: there is no channel layer with groups.
        TypeError: the content is not JSON, or the name of the group is not valid.
        ValueError: the content refers to itself, a number is not finite, or a text is
            not Unicode.
    """
    layer: Any = get_channel_layer(using)
    if not hasattr(layer, "group_send"):
        raise InvalidChannelLayerError(
            f"the channel layer {using!r} is not configured, or has no groups"
        )
    await layer.group_send(group, _make_message(content, exclude, compress))


def _make_message(content: Any, exclude: str | None, compress: bool) -> Message:
    """
    Return the group message of a broadcast.

    Raises:
        TypeError, ValueError: as broadcast().
    """
    message: Message = {"type": BROADCAST, "version": _VERSION, "exclude": exclude}
    if not compress:
        message["compress"] = False
    if isinstance(content, bytes | bytearray | memoryview):
        return {**message, "bytes": bytes(content)}
    text = content if isinstance(content, str) else _encode_json(content)
    # A lone surrogate fails here, not at each member.
    text.encode()
    return {**message, "text": text}


def _encode_json(content: Any) -> str:
    """
    Return content as JSON.

    Raises:
        TypeError, ValueError: json.dumps() cannot encode it.
    """
    try:
        # No browser reads NaN and Infinity, which Python would write.
        return json.dumps(content, allow_nan=False)
    except TypeError as exc:
        raise TypeError(f"a broadcast is text, bytes or JSON: {exc}") from exc


def is_unknown_to_channels(message: Message) -> bool:
    """Return True for a gap or broadcast: Channels has no method for either."""
    return message.get("type") in (GAP, BROADCAST)


def read_broadcast(message: Message) -> PreparedMessage | None:
    """Return what a broadcast sends; None, and a log line, if it cannot be read."""
    prepared = message.get("prepared")
    if isinstance(prepared, PreparedMessage):
        return prepared
    content = message.get("text", message.get("bytes"))
    if message.get("version") == _VERSION and isinstance(content, str | bytes):
        try:
            compress = message.get("compress", True) is not False
            return PreparedMessage(content, compress=compress)
        except UnicodeEncodeError:
            content = None
    logger.error(
        "A broadcast of version %.16r cannot be read: this node reads version %s",
        message.get("version"),
        _VERSION,
        extra={"event": "broadcast_unreadable"},
    )
    return None
