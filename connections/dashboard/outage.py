"""Answer the requests of staff while the database is away."""

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib.sessions.backends.base import SessionBase
from django.core.handlers.base import BaseHandler
from django.db import (
    InterfaceError,
    InternalError,
    OperationalError,
)
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.template.loader import render_to_string
from django.template.response import SimpleTemplateResponse

from connections.dashboard.sites import linking_within, make_page_url
from connections.storage.failures import explain_failure
from connections.storage.transactions import begin_no_transaction
from connections.units import Clock

TRUSTED_SECONDS = 3600
"""How long the last check of a viewer's rights counts, if none is possible."""

FAILURES = (OperationalError, InterfaceError, InternalError)
"""Errors of a database that is away or refuses writes (PostgreSQL: InternalError)."""

_MOST_VIEWERS = 1000
_TEMPLATE = "admin/connections/livedashboard/outage.html"

logger = logging.getLogger(__name__)

View = Callable[..., HttpResponseBase]


class KnownViewers:
    """
    The users who could view the dashboard when they were last checked, by session.

    Only digests of the session keys are kept. Thread-safe.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[bytes, tuple[float, Any]] = {}

    def remember(self, session_key: str | None, user: Any) -> None:
        """Keep a user whose session and permissions were read just now."""
        if session_key is None:
            return
        key = _digest(session_key)
        with self._lock:
            self._known.pop(key, None)
            if len(self._known) >= _MOST_VIEWERS:
                del self._known[next(iter(self._known))]
            self._known[key] = (self._clock(), user)

    def forget(self, session_key: str | None) -> None:
        """Forget a session that may no longer view the dashboard."""
        with self._lock:
            self._known.pop(_digest(session_key or ""), None)

    def find(self, session_key: str | None) -> Any:
        """Return the user of a session; None if the last check is too long ago."""
        with self._lock:
            checked_at, user = self._known.get(_digest(session_key or ""), (0.0, None))
        return user if self._clock() - checked_at < TRUSTED_SECONDS else None


def _digest(session_key: str) -> bytes:
    return hashlib.sha256(session_key.encode()).digest()


viewers = KnownViewers()
"""The viewers of this process."""


def explain_outage(view: View, site: str) -> View:
    """
    Wrap a view: answer 503 with a page that names the problem of the database.

    The view's links, and those of that page, lead to the pages of an admin site.

    With ATOMIC_REQUESTS the transaction begins inside of the wrapper, because its
    beginning fails too.
    """

    @wraps(view)
    @linking_within(site)
    def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            atomic: View = BaseHandler().make_view_atomic(view)
            return _render(atomic(request, *args, **kwargs))
        except FAILURES as exc:
            logger.warning(
                "%s needs the database: %s",
                request.path,
                explain_failure(exc),
                extra={"event": "page_without_database"},
            )
            context = {
                "problem": explain_failure(exc),
                "dashboard_url": make_page_url("connections_livedashboard_changelist"),
            }
            return HttpResponse(render_to_string(_TEMPLATE, context), status=503)

    return begin_no_transaction(answer)


def show_without_database(guarded: View, view: View) -> View:
    """
    Wrap a view that needs no database for a viewer whose rights are known.

    `guarded` is the view behind the login of the admin. Neither runs in a
    transaction: after a failure inside of one, nothing more can be read.
    """

    @wraps(view)
    def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        session = request.session
        try:
            response = _render(guarded(request, *args, **kwargs))
        except FAILURES:
            user = viewers.find(session.session_key)
            if user is None:
                raise
            # The templates read the messages, and so the session.
            request.user, request.session = user, SessionBase()
            try:
                return _render(view(request, *args, **kwargs))
            finally:
                request.session = session
        if response.status_code == 200:
            viewers.remember(session.session_key, request.user)
        else:
            viewers.forget(session.session_key)
        return response

    return begin_no_transaction(answer)


def _render(response: HttpResponseBase) -> HttpResponseBase:
    """Render a response now, because its template may read the database."""
    if isinstance(response, SimpleTemplateResponse):
        response.render()
    return response
