"""
Add the connection, client and node to every log record.

In settings.LOGGING, `ContextFilter` belongs to the handlers, so that the records
of all loggers pass it; `JsonFormatter` writes one JSON object per line.
"""

from __future__ import annotations

import logging
import re
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter as _JsonFormatter

if TYPE_CHECKING:
    from connections.hub.connection import LiveConnection

NOTHING = "-"

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters, line breaks, and marks of text direction."""

_FIELDS = ("connection_id", "client_id")

_node_id = NOTHING
# Ids, not the connection: a task that outlives it keeps its context alive.
_ids: ContextVar[tuple[str, str]] = ContextVar(
    "connections_logs", default=(NOTHING, NOTHING)
)
_ends = logging.getLogger("connections.ends")


def set_node(node_id: str) -> None:
    """Set the node of all log records."""
    global _node_id
    _node_id = node_id


def set_connection(connection: LiveConnection) -> None:
    """Set the connection of the running task and of tasks that it starts."""
    _ids.set((connection.connection_id, connection.client_id))


def log_end(
    connection: LiveConnection, code: int | None, reason: str, duration_seconds: float
) -> None:
    """Log the end of a connection, as one line of connections.ends."""
    if not _ends.isEnabledFor(logging.INFO):
        return
    _ends.info(
        "Connection %s of %.100s ended after %.1f s: %s (%s); messages %s in, %s out;"
        " errors %s",
        connection.connection_id,
        connection.client_id,
        duration_seconds,
        reason,
        code,
        connection.messages_in,
        connection.messages_out,
        connection.errors,
        extra={
            "event": "connection_ended",
            "connection_id": connection.connection_id,
            "client_id": connection.client_id,
            "route": connection.route,
            "reason": reason,
            "code": code,
            "duration_seconds": round(duration_seconds, 3),
            "messages_in": connection.messages_in,
            "messages_out": connection.messages_out,
            "bytes_in": connection.bytes_in,
            "bytes_out": connection.bytes_out,
            "errors": connection.errors,
        },
    )


class ContextFilter(logging.Filter):
    """Adds connection_id, client_id and node_id to records without them."""

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in zip(_FIELDS, _ids.get(), strict=True):
            if not hasattr(record, name):
                setattr(record, name, value)
        if not hasattr(record, "node_id"):
            record.node_id = _node_id
        return True


class TextFormatter(logging.Formatter):
    """
    Formats each record as one line, with an indented traceback.

    Line breaks and escape sequences, which a client could send in a name, are
    escaped: they would forge a line or reach the reader's terminal. Moments are
    in UTC, as on the pages and in JSON.
    """

    converter = staticmethod(time.gmtime)
    default_msec_format = "%s.%03d UTC"

    def format(self, record: logging.LogRecord) -> str:
        first, *rest = super().format(record).splitlines() or [""]
        return "\n    ".join([first, *map(_escape, rest)])

    def formatMessage(self, record: logging.LogRecord) -> str:
        return _escape(super().formatMessage(record))


def _escape(text: str) -> str:
    return _UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], text)


class JsonFormatter(_JsonFormatter):
    """Formats each record as a JSON object: time, level, logger, message, extras."""

    def __init__(self) -> None:
        super().__init__(
            "{levelname}{name}{message}",
            style="{",
            timestamp="time",
            rename_fields={"levelname": "level", "name": "logger"},
            # "color_message" is uvicorn's second copy of its message.
            reserved_attrs=[*RESERVED_ATTRS, "color_message"],
        )
