"""
Close the database connections of an HTTP request's thread.

Under ASGI Django runs each request in a thread of its own, so CONN_MAX_AGE saves
no connection: each stays open after its thread, until the garbage collector finds
it, and PostgreSQL soon refuses new ones.
"""

from typing import Any

from django.core.handlers.asgi import ASGIHandler
from django.core.signals import request_finished
from django.db import connections


def watch_requests() -> None:
    """Connect the receiver; called once, when the app is ready."""
    request_finished.connect(_close, dispatch_uid="connections.request_threads")


def _close(sender: Any, **kwargs: Any) -> None:
    """Close this thread's connections; Django sends the signal in that thread."""
    if isinstance(sender, type) and issubclass(sender, ASGIHandler):
        for opened in connections.all(initialized_only=True):
            if not opened.in_atomic_block:
                opened.close()
