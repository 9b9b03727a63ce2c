"""
Give each handled event an isolation scope of Sentry.

This module is imported only by a process that has imported sentry_sdk. Nothing here
begins a transaction. One that Sentry's ASGI middleware began around a WebSocket ends
with its handshake.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sentry_sdk
from sentry_sdk.integrations.logging import ignore_logger

from connections.asgi import Message
from connections.close_codes import INTERNAL_ERROR
from connections.telemetry.events import Event, Watched, find_close_reason

# record_failure() captures the exceptions that this logger reports.
ignore_logger("connections.connection.failures")

_LONGEST_TAG = 200
"""Sentry cuts a longer tag."""


class Sentry:
    """Sets the scope of each event, and captures failures with their ref."""

    def begin_handshake(self, scope: Message, node_id: str, start_ns: int) -> list[Any]:
        """Return the transactions that surround the socket: one, or none."""
        span: Any = sentry_sdk.get_current_scope().span
        segment = getattr(span, "containing_transaction", span)
        return [] if segment is None else [segment]

    def attach(self, part: Any, watched: Watched) -> None:
        """Do nothing: the tags belong to the scopes of events."""

    def end_handshake(self, part: list[Any], outcome: str, status: int | None) -> None:
        """End the transaction; its own end, with the socket, then does nothing."""
        while part:
            segment = part.pop()
            end = segment.finish if hasattr(segment, "finish") else segment.end
            end()

    @contextmanager
    def watch(self, part: Any, event: Event, watched: Watched) -> Iterator[None]:
        """Handle an event in an isolation scope of its own."""
        with sentry_sdk.isolation_scope() as scope:
            # The transaction of the handshake, if there was one, has ended.
            if not part:
                sentry_sdk.get_current_scope().span = None
            scope.clear_breadcrumbs()
            scope.set_tags(_make_tags(event, watched))
            yield

    def record_failure(
        self, event: Event, watched: Watched, exc: BaseException, ref: str
    ) -> None:
        """Capture an exception under the ref that its client gets."""
        tags = _make_tags(event, watched) | {"ref": ref}
        if event.kind == "websocket.connect":
            tags.setdefault("close_reason", INTERNAL_ERROR.reason)
        with sentry_sdk.new_scope() as scope:
            scope.set_tags(tags)
            scope.set_transaction_name(watched.connection.route or event.kind)
            sentry_sdk.capture_exception(exc)


def is_set_up() -> bool:
    """Return True if the project has called sentry_sdk.init()."""
    return sentry_sdk.is_initialized()


def _make_tags(event: Event, watched: Watched) -> dict[str, str]:
    connection = watched.connection
    tags = {
        "close_reason": find_close_reason(event, watched),
        "route": connection.route,
        "node": watched.node_id,
        "client": watched.client_name,
        "connection": connection.connection_id,
        "event": event.kind,
    }
    return {name: value[:_LONGEST_TAG] for name, value in tags.items() if value}
