"""
ASGI middleware before a consumer: the node, Host and Origin, credentials.

connections.routing combines them in this order.
"""

import asyncio
import json
import logging
import re
from collections.abc import Awaitable
from typing import NamedTuple
from urllib.parse import quote

from django.conf import settings
from django.http.request import validate_host

from connections import close_codes
from connections.access.proxies import find_scope_source, with_address, with_scheme
from connections.asgi import Application, Message, Receive, Send
from connections.config.loader import WebSocketConfig
from connections.credentials.channels_scope import describe_client, parse_cookies
from connections.credentials.identity import Credential, name_address
from connections.exceptions import Refused
from connections.logs import NOTHING
from connections.net.origins import is_origin_allowed, parse_host
from connections.net.redaction import conceal
from connections.net.script_prefix import remove_script_prefix, with_script_prefix
from connections.net.source_log import SourceLog
from connections.node.current import get_node
from connections.node.health import answer_probe, find_probe
from connections.node.lifespan import follow_lifespan
from connections.node.node import Node

logger = logging.getLogger(__name__)

_BEARER = "bearer."
_LINGER_SECONDS = 1
_OUTCOMES = {400: "bad_request", 403: "origin", 404: "not_found", 503: "draining"}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TICKET = re.compile(rb"(?:^|(?<=&))ticket=([^&]*)&?")
"""A ticket in a query string, which is removed before the consumer."""

_LOCAL_HOSTS = [".localhost", "127.0.0.1", "[::1]"]


class _Offer(NamedTuple):
    """What a handshake offers as a credential."""

    bearer: str | None
    ticket: str | None
    cookies: dict[str, str]


class NodeMiddleware:
    """
    Puts the node of this process into the scope; the outermost middleware.

    The first call creates the node, because daphne sends no lifespan events.
    Other servers start and stop it with theirs. Probes are answered here, ahead of
    the application.
    """

    def __init__(self, application: Application) -> None:
        self.application = application

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        node = get_node()
        if scope["type"] == "lifespan":
            await follow_lifespan(node, receive, send)
            return
        if scope["type"] == "http":
            method, path = scope["method"], scope["path"]
            root_path = scope.get("root_path", "")
            probe = find_probe(node.config, method, path, root_path)
            if probe is not None:
                await answer_probe(node, probe, scope, send)
                return
        await node.start()
        scope = with_script_prefix(scope, settings.FORCE_SCRIPT_NAME)
        # A close request after this moment concerns this handshake too.
        scope = {**scope, "node": node, "arrived": node.clock()}
        if scope["type"] == "websocket" and node.is_draining:
            await deny(scope, send, 503, [(b"retry-after", b"1")])
            return
        try:
            await self.application(scope, receive, send)
        except Exception as exc:
            # The server logs the exception; it must show no secret.
            shown = conceal(exc, scope)
            if shown is exc:
                raise
            raise shown from None


class OriginMiddleware:
    """Refuses foreign origins and hosts with 403 before the accept."""

    # asgiref takes a callable that is no coroutine function for ASGI 2.
    _asgi_single_callable = True

    def __init__(self, application: Application) -> None:
        self.application = application
        self._log = SourceLog()

    def __call__(self, scope: Message, receive: Receive, send: Send) -> Awaitable[None]:
        # A coroutine here would cost memory for as long as the connection lives.
        config: WebSocketConfig = scope["node"].config
        headers = scope["headers"]
        source = find_scope_source(scope)
        self._log.record(source)
        origins = [
            value.decode("latin-1") for name, value in headers if name == b"origin"
        ]
        is_host_allowed = _is_host_allowed(source.host)
        if not is_host_allowed or not is_origin_allowed(
            origins,
            host=source.host,
            is_secure=source.is_secure,
            allowed=config.allowed_origins,
            has_own_credential=_find_bearer(scope) is not None
            or _find_ticket(scope) is not None,
        ):
            origin = _find_origin(scope)
            is_bare = is_host_allowed and not origins
            logger.info(
                "A handshake for %.100s was refused: %s; "
                "from %s, host %.100r, origin %.100r",
                quote(scope["path"], errors="replace"),
                "no Origin and no credential" if is_bare else "foreign host or origin",
                source.address or "unix",
                source.host,
                origin,
                extra={
                    "event": "origin_refused",
                    "address": source.address,
                    "host": source.host[:100],
                    "origin": origin[:100],
                },
            )
            return deny(scope, send, 403)
        scope = with_address(with_scheme(scope, source), source)
        return self.application(scope, receive, send)


class CredentialMiddleware:
    """
    Verifies the credential: bearer token, else ticket, session cookie, address.

    A refused handshake is accepted and closed with its code, because before the
    accept a browser sees only 1006 and would retry without end.
    """

    def __init__(self, application: Application) -> None:
        self.application = application

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        offered = scope.get("subprotocols") or []
        plain = [name for name in offered if not name.startswith(_BEARER)]
        if offered and not (plain and all(map(_TOKEN.fullmatch, offered))):
            # RFC 6455, section 4.1: a subprotocol is a token of RFC 2616. A browser
            # fails the connection unless one of its subprotocols is selected, and
            # the server must not echo a secret.
            await deny(scope, send, 400)
            return
        offer = _Offer(
            _find_bearer(scope), _find_ticket(scope), parse_cookies(scope["headers"])
        )
        scope = {
            **scope,
            "subprotocols": plain,
            "query_string": _TICKET.sub(b"", scope.get("query_string", b"")),
        }
        try:
            credential = await self._admit(scope, offer)
            database = scope["node"].database
            scope |= await describe_client(credential, offer.cookies, database)
        except Refused as exc:
            await reject(scope, receive, send, exc)
            return
        except Exception:
            _count(scope, close_codes.INTERNAL_ERROR.reason)
            raise
        await self.application(scope, receive, send)

    async def _admit(self, scope: Message, offer: _Offer) -> Credential:
        """
        Return the credential of a handshake that the gate admits.

        Raises:
            Refused: the credential, client or address is not admitted.
        """
        node: Node = scope["node"]
        address = _find_address(scope)
        await node.gate.open()
        node.gate.check_address(address)
        credential = await self._verify(scope, offer)
        user_id = credential.user.pk if credential.user else None
        node.gate.check(credential.client_id, user_id, address)
        if not credential.covers(remove_script_prefix(scope), scope.get("route", "")):
            raise Refused(close_codes.FORBIDDEN, credential.client_id)
        return credential

    async def _verify(self, scope: Message, offer: _Offer) -> Credential:
        node: Node = scope["node"]
        address = _find_address(scope)
        if offer.bearer is not None:
            async with node.gate.limit_guesses(address):
                return await node.verifier.verify_token(offer.bearer)
        if offer.ticket is not None:
            async with node.gate.limit_guesses(address):
                origin = _find_origin(scope)
                return await node.verifier.verify_ticket(offer.ticket, origin)
        session_key = offer.cookies.get(settings.SESSION_COOKIE_NAME)
        if session_key:
            try:
                return await node.verifier.verify_session(session_key)
            except Refused as exc:
                is_known = exc.close_reason is not close_codes.UNAUTHENTICATED
                if is_known or not node.config.anonymous:
                    raise
        if not node.config.anonymous:
            raise Refused(close_codes.UNAUTHENTICATED)
        return Credential(client_id=name_address(address or "unix"))


async def deny(
    scope: Message,
    send: Send,
    status: int,
    headers: list[tuple[bytes, bytes]] | None = None,
) -> None:
    """Refuse a handshake with an HTTP status; 403 if the server supports no other."""
    _count(scope, _OUTCOMES.get(status, "denied"))
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close"})
        return
    start = {"type": "websocket.http.response.start", "status": status}
    await send({**start, "headers": [(b"content-length", b"0"), *(headers or ())]})
    await send({"type": "websocket.http.response.body", "body": b""})


async def reject(scope: Message, receive: Receive, send: Send, exc: Refused) -> None:
    """Accept a handshake, and close it with a code and reason."""
    close_reason = exc.close_reason
    _count(scope, close_reason.reason, exc.client_id or "")
    offered = scope.get("subprotocols") or []
    selected = offered[0] if offered else None
    if close_reason is not close_codes.RATE_LIMITED:  # The gate logs these, rarely.
        _log_refusal(scope, exc)
    await send({"type": "websocket.accept", "subprotocol": selected})
    if selected is not None and selected.startswith("orchestra."):
        await send({"type": "websocket.send", "text": json.dumps(close_reason.bye())})
    close = {
        "type": "websocket.close",
        "code": close_reason.code,
        "reason": close_reason.reason,
    }
    await send(close)
    try:
        async with asyncio.timeout(_LINGER_SECONDS):
            while (await receive())["type"] != "websocket.disconnect":
                continue
    except TimeoutError:
        logger.debug(
            "A refused client has not left in time; the server closes its socket"
        )


def _log_refusal(scope: Message, exc: Refused) -> None:
    """Log a refused handshake without its credential."""
    address, origin = _find_address(scope), _find_origin(scope)
    logger.info(
        "A handshake for %.100s was refused: %s; from %s, client %.100r, origin %.100r",
        quote(scope["path"], errors="replace"),
        exc.close_reason.reason,
        address or "unix",
        exc.client_id,
        origin,
        extra={
            "event": "credentials_refused",
            "reason": exc.close_reason.reason,
            "address": address,
            "origin": origin[:100],
            "client_id": exc.client_id or NOTHING,
        },
    )


def _count(scope: Message, outcome: str, client_id: str = "") -> None:
    """Count a handshake that was refused before its consumer."""
    node: Node | None = scope.get("node")
    if node is not None:
        route = scope.get("route", "")
        node.counters.record_outcome(route, outcome)
        node.top.record_refused(client_id, _find_address(scope), route)


def _find_address(scope: Message) -> str:
    """Return the client's address, empty on a Unix socket."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def _is_host_allowed(host: str) -> bool:
    """Check Host against the current ALLOWED_HOSTS, as Django does."""
    parsed = parse_host(host)
    allowed = settings.ALLOWED_HOSTS
    if settings.DEBUG and not allowed:
        allowed = _LOCAL_HOSTS
    return parsed is not None and validate_host(parsed[0], allowed)


def _find_bearer(scope: Message) -> str | None:
    """Return the bearer token of a handshake, from its header or subprotocol."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            if scheme.lower() == "bearer":
                return str(token.strip())
    for subprotocol in scope.get("subprotocols") or []:
        if subprotocol.startswith(_BEARER):
            return str(subprotocol.removeprefix(_BEARER))
    return None


def _find_ticket(scope: Message) -> str | None:
    """Return the ticket in the URL of a handshake."""
    found = _TICKET.search(scope.get("query_string", b""))
    return found[1].decode("latin-1") if found else None


def _find_origin(scope: Message) -> str:
    for name, value in scope["headers"]:
        if name == b"origin":
            return str(value.decode("latin-1"))
    return ""
