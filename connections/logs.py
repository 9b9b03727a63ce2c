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


def set_node(node_id: str) -> None:
    """Set the node of all log records."""
    global _node_id
    _node_id = node_id


def set_connection(connection: LiveConnection) -> None:
    """Set the connection of the running task and of tasks that it starts."""
    _ids.set((connection.connection_id, connection.client_id))


class ContextFilter(logging.Filter):
    """Adds connection_id, client_id and node_id to records without them."""

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in zip(_FIELDS, _ids.get(), strict=True):
            if not hasattr(record, name):
                setattr(record, name, value)
        if not hasattr(record, "node_id"):
            record.node_id = _node_id
        return True


class RefusalFilter(logging.Filter):
    """
    Makes one line, without a traceback, of a request that Django refuses.

    Anybody can send one, with a foreign Host for example. Django logs it twice:
    under django.security, and as the status of its answer under django.request.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        request = getattr(record, "request", None)
        if record.name.startswith("django.security."):
            record.exc_info = record.exc_text = None
            if request is not None:
                request.is_refusal_logged = True
            return True
        is_logged = getattr(request, "is_refusal_logged", False)
        return not (is_logged and record.name == "django.request")


class TextFormatter(logging.Formatter):
    """
    Formats each record as one line, with an indented traceback.

    Line breaks and escape sequences, which a client could send in a name, are
    escaped: they would forge a line or reach the reader's terminal. Moments are
    in UTC, as on the pages and in JSON. `%(context)s` names node, connection and
    client, as far as there are any and the message does not name them.
    """

    converter = staticmethod(time.gmtime)
    default_msec_format = "%s.%03d UTC"

    def format(self, record: logging.LogRecord) -> str:
        first, *rest = super().format(record).splitlines() or [""]
        return "\n    ".join([first, *map(escape, rest)])

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.context = _name_context(record)
        return escape(super().formatMessage(record))


def _name_context(record: logging.LogRecord) -> str:
    """Return the parts of a record's context that its message does not have."""
    node_id = getattr(record, "node_id", NOTHING)
    parts = [f"node {node_id[:8]}"]
    for name in _FIELDS:
        value = str(getattr(record, name, NOTHING))
        if value != NOTHING and value[:100] not in record.message:
            parts.append(f"{name.removesuffix('_id')} {value[:100]}")
    return ", ".join(parts)


def escape(text: str) -> str:
    """Return a text as one line, safe for a terminal, with escapes as of Python."""
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
