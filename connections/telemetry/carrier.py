"""Carry the context of a trace in messages, as W3C Trace Context writes it."""

import json
import re
import sys
from typing import Any

from connections.asgi import Message

TRACEPARENT = "orchestra.traceparent"
"""The field of a layer message that names the context of its sender."""

_FORM = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C Trace Context, section 3.2."""

_IN_JSON = '"traceparent"'
TRACE_API = "opentelemetry.trace"
"""The module that a process has imported if it makes spans."""


def get_traceparent() -> str:
    """Return the context of the current span, or "" without one."""
    if TRACE_API not in sys.modules:
        return ""
    from opentelemetry.trace.propagation.tracecontext import (
        TraceContextTextMapPropagator,
    )

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent", "")


def with_trace(message: Message) -> Message:
    """
    Return a layer message that carries the current context, if there is any.

    Orchestra's layers do this themselves. Use it with another channel layer; limited
    consumers of all layers remove the field before they call a method.
    """
    traceparent = get_traceparent()
    return {**message, TRACEPARENT: traceparent} if traceparent else message


def read_message(message: Message) -> str:
    """Return the `traceparent` at the top of a client's JSON message, or ""."""
    text = message.get("text")
    if not text or _IN_JSON not in text:
        return ""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    return read(content.get("traceparent")) if isinstance(content, dict) else ""


def read_headers(scope: Message) -> str:
    """Return the `traceparent` of a handshake, or "" without one or with several."""
    headers = scope.get("headers") or ()
    found = [value for name, value in headers if name == b"traceparent"]
    return read(found[0].decode("latin-1")) if len(found) == 1 else ""


def read(value: Any) -> str:
    """Return a well-formed traceparent, or ""."""
    return value if isinstance(value, str) and _FORM.fullmatch(value) else ""
