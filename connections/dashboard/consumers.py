"""Push the dashboard's panels over a WebSocket, as often as the viewer chose."""

import asyncio
import contextlib
import logging
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

from django.conf import settings

from connections import close_codes
from connections.actions.registry import find_allowed
from connections.asgi import (
    ARRIVED,
    Message,
    Receive,
    Send,
    get_extension,
    with_extension,
)
from connections.background import BackgroundTasks
from connections.close_codes import CloseReason
from connections.consumers import LimitedJsonConsumer
from connections.credentials.identity import Credential
from connections.credentials.requirements import Requirements
from connections.credentials.sessions import verify_session
from connections.dashboard.cache import shared
from connections.dashboard.filters import Selection
from connections.dashboard.outage import viewers
from connections.dashboard.panels import Panels
from connections.dashboard.sites import linking_below, may_view
from connections.exceptions import DatabaseUnavailable, InvalidMessage, Refused
from connections.hub.connection import LiveConnection
from connections.middleware import (
    CredentialMiddleware,
    NodeMiddleware,
    OriginMiddleware,
)
from connections.node.current import get_detached_node
from connections.node.node import Node
from connections.storage.database import Database

logger = logging.getLogger(__name__)

PERMISSION = "connections.view_livedashboard"
PATH = "ws/connections/live/"
_REQUIREMENTS = Requirements(permissions=(PERMISSION,), is_staff=True)
_RECHECK_SECONDS = 30
_RETRY_SECONDS = 1
_INTERVALS = (1, 2, 5, 15, 30)


class LiveConsumer(LimitedJsonConsumer):
    """
    Send changed panels to a staff user.

    The connection belongs to a detached node that records nothing: viewers are
    neither counted nor shown, and take no slot from a client. The serving node
    ends it when the user may no longer view the dashboard.
    """

    gives_node = True
    shared = shared
    _serving_node: Node
    _credential: Credential
    _live: LiveConnection | None = None
    _checked_at = 0.0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if "node" not in scope:
            # Staff's cookies must not let a foreign page in, whatever the project
            # has before its consumers.
            await _guarded(scope, receive, send)
            return
        self._serving_node = node = scope["node"]
        arrived = get_extension(scope, ARRIVED, node.clock())
        scope = with_extension(scope, ARRIVED, arrived)
        parameters = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))
        self._site = parameters.get("site", "")
        self._selection = Selection(site=self._site)
        self._every_seconds: int | None = None
        self._allowed: frozenset[str] = frozenset()
        self._sent: dict[str, Any] = {}
        self._due = asyncio.Event()
        self._pushing = BackgroundTasks()
        try:
            await super().__call__(
                {**scope, "node": get_detached_node()}, receive, send
            )
        finally:
            if self._live is not None:
                node.remove_viewer(self._live)
            self._pushing.cancel()

    async def connect(self) -> None:
        await self.accept()
        close_reason = await self._find_close_reason()
        if close_reason is not None:
            self.end(close_reason.code, close_reason.reason)
            return
        self._live = live = self.connection.live
        live.user_id = self._credential.user.pk
        live.requirements = _REQUIREMENTS
        live.renew(self._credential)
        self._serving_node.add_viewer(live)
        self._checked_at = asyncio.get_running_loop().time()
        self._pushing.repeat(
            self._push_when_due, "The push of the dashboard", _RETRY_SECONDS
        )

    async def handle_watch(self, content: Any) -> None:
        """Set the viewer's selection and interval."""
        query, every_seconds = content.get("query"), content.get("every_seconds")
        if not isinstance(query, str) or len(query) > 2000:
            raise InvalidMessage("invalid_message", "query is not the query of a URL")
        if every_seconds not in _INTERVALS:
            allowed = ", ".join(map(str, _INTERVALS))
            raise InvalidMessage(
                "invalid_message", f"every_seconds is not one of {allowed}"
            )
        selection = Selection.parse(dict(parse_qsl(query)))
        self._selection = replace(selection, site=self._site)
        self._every_seconds = every_seconds
        self._due.set()

    async def _push_when_due(self) -> bool:
        """Send changed panels when they are due; return True at the viewer's end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._every_seconds):
                await self._due.wait()
        self._due.clear()
        now = asyncio.get_running_loop().time()
        if now - self._checked_at >= _RECHECK_SECONDS:
            close_reason = await self._find_close_reason()
            if close_reason is not None:
                self.end(close_reason.code, close_reason.reason)
                return True
            self._checked_at = now
        if self._serving_node.is_draining:
            self.end(close_codes.DRAINING.code, close_codes.DRAINING.reason)
            return True
        await self._send_panels()
        return False

    async def _send_panels(self) -> None:
        try:
            panels = await self._database.read(
                self._get_panels, self._selection, self._allowed
            )
        except DatabaseUnavailable as exc:
            logger.warning("The dashboard cannot be rendered: %s", exc)
            await self.send_json({"type": "failed"})
            return
        changed = {
            name: html
            for name, html in panels.html.items()
            if self._sent.get(name) != html
        }
        message = panels.as_message() | {"html": changed}
        if self._sent.get("keys") == panels.keys:
            del message["keys"]
        self._sent = {**panels.html, "keys": panels.keys}
        await self.send_json(message)

    def _get_panels(self, selection: Selection, allowed: frozenset[str]) -> Panels:
        """Return the panels, whose links begin as those of the page do."""
        prefix = settings.FORCE_SCRIPT_NAME or self.scope.get("root_path", "")
        with linking_below(prefix):
            return self.shared.get_panels(selection, allowed)

    async def _find_close_reason(self) -> CloseReason | None:
        """Return the reason to close the connection, or None if the user may view."""
        handshake: Credential | None = self.scope.get("credential")
        session = handshake.session if handshake is not None else None
        if session is None:
            return close_codes.FORBIDDEN
        try:
            credential, allowed = await self._database.read(
                _find_allowed, session.session_key, self.scope, self._site
            )
        except Refused as exc:
            return exc.close_reason
        except DatabaseUnavailable:
            is_known = viewers.find(session.session_key) is not None
            return None if is_known and self._live else close_codes.UNAVAILABLE
        if allowed is None:
            viewers.forget(session.session_key)
            return close_codes.FORBIDDEN
        viewers.remember(session.session_key, credential.user)
        self._credential, self._allowed = credential, allowed
        return None

    @property
    def _database(self) -> Database:
        if self._serving_node.database is None:
            raise RuntimeError("the dashboard needs a node with a database")
        return self._serving_node.database


_guarded = NodeMiddleware(
    OriginMiddleware(CredentialMiddleware(LiveConsumer.as_asgi()))
)
"""The dashboard's consumer in a project that routes it without protect()."""


def _find_allowed(
    session_key: str, scope: Message, site: str
) -> tuple[Credential, frozenset[str] | None]:
    """
    Return a session's credential and permitted actions; None: may not view.

    An admin site may demand more of a viewer than the permission.
    """
    credential = verify_session(session_key)
    user = credential.user
    if not user.is_staff or not user.has_perm(PERMISSION):
        return credential, None
    if not may_view(scope, user, credential.session, site):
        return credential, None
    return credential, find_allowed(user)
