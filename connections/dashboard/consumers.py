"""Push the dashboard's panels over a WebSocket, as often as the viewer chose."""

import asyncio
import logging
from typing import Any
from urllib.parse import parse_qsl

from connections import close_codes
from connections.asgi import Message, Receive, Send
from connections.close_codes import CloseReason
from connections.consumers import LimitedJsonConsumer
from connections.credentials.identity import Credential
from connections.credentials.requirements import Requirements
from connections.credentials.sessions import verify_session
from connections.dashboard.actions import find_allowed
from connections.dashboard.cache import shared
from connections.dashboard.filters import Selection
from connections.dashboard.outage import viewers
from connections.exceptions import DatabaseUnavailable, InvalidMessage, Refused
from connections.hub.connection import LiveConnection
from connections.node.current import get_detached_node
from connections.node.node import Node
from connections.storage.database import Database

logger = logging.getLogger(__name__)

PERMISSION = "connections.view_livedashboard"
PATH = "ws/connections/live/"
_REQUIREMENTS = Requirements(permissions=(PERMISSION,), is_staff=True)
_RECHECK_SECONDS = 30
_INTERVALS = (1, 2, 5, 15, 30)


class LiveConsumer(LimitedJsonConsumer):
    """
    Send changed panels to a staff user.

    The connection belongs to a detached node that records nothing: viewers are
    neither counted nor shown, and take no slot from a client. The serving node
    ends it when the user may no longer view the dashboard.
    """

    shared = shared
    _serving_node: Node
    _credential: Credential
    _live: LiveConnection | None = None
    _pushing: asyncio.Task[None] | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        self._serving_node = node = scope["node"]
        scope = {**scope, "arrived": scope.get("arrived", node.clock())}
        self._selection = Selection()
        self._every_seconds = 2
        self._allowed: frozenset[str] = frozenset()
        self._sent: dict[str, Any] = {}
        self._due = asyncio.Event()
        try:
            await super().__call__(
                {**scope, "node": get_detached_node()}, receive, send
            )
        finally:
            if self._live is not None:
                node.remove_viewer(self._live)
            if self._pushing is not None:
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
        self._pushing = asyncio.create_task(self._push())

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
        self._selection = Selection.parse(dict(parse_qsl(query)))
        self._every_seconds = every_seconds
        self._due.set()

    async def _push(self) -> None:
        """Send changed panels periodically, from the first request on."""
        loop = asyncio.get_running_loop()
        checked_at = loop.time()
        await self._due.wait()
        while True:
            self._due.clear()
            if loop.time() - checked_at >= _RECHECK_SECONDS:
                checked_at = loop.time()
                close_reason = await self._find_close_reason()
                if close_reason is not None:
                    self.end(close_reason.code, close_reason.reason)
                    return
            if self._serving_node.is_draining:
                self.end(close_codes.DRAINING.code, close_codes.DRAINING.reason)
                return
            await self._send_panels()
            try:
                async with asyncio.timeout(self._every_seconds):
                    await self._due.wait()
            except TimeoutError:
                continue

    async def _send_panels(self) -> None:
        try:
            panels = await self._database.read(
                self.shared.get_panels, self._selection, self._allowed
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

    async def _find_close_reason(self) -> CloseReason | None:
        """Return the reason to close the connection, or None if the user may view."""
        handshake: Credential | None = self.scope.get("credential")
        session = handshake.session if handshake is not None else None
        if session is None:
            return close_codes.FORBIDDEN
        try:
            credential, allowed = await self._database.read(
                _find_allowed, session.session_key
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


def _find_allowed(session_key: str) -> tuple[Credential, frozenset[str] | None]:
    """Return a session's credential and permitted actions; None: may not view."""
    credential = verify_session(session_key)
    user = credential.user
    if not user.is_staff or not user.has_perm(PERMISSION):
        return credential, None
    return credential, find_allowed(user)
