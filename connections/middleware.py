"""
ASGI middleware before a consumer: the node, Host and Origin, credentials.

connections.routing combines them in this order.
"""

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Sequence
from urllib.parse import quote

from django.conf import settings
from django.http.request import validate_host

from connections import close_codes
from connections.access.proxies import find_scope_source, with_address, with_scheme
from connections.access.source_log import SourceLog
from connections.asgi import (
    ARRIVED,
    Application,
    Message,
    Receive,
    Send,
    with_extension,
)
from connections.credentials.channels_scope import describe_client
from connections.credentials.handshake import (
    find_origin,
    remove_ambient,
    remove_credentials,
)
from connections.credentials.identity import Credential
from connections.credentials.sessions import find_user_credential
from connections.exceptions import Refused
from connections.logs import NOTHING
from connections.net.addresses import Source
from connections.net.origins import is_origin_allowed, parse_host
from connections.net.script_prefix import remove_script_prefix, with_script_prefix
from connections.node.current import get_node, start_without_lifespan
from connections.node.health import answer_probe, find_probe
from connections.node.lifespan import follow_lifespan
from connections.node.node import Node
from connections.privacy import name_address, reduce_address, show_address
from connections.redaction import SECRET_KEYS, conceal
from connections.telemetry.handshake import begin_handshake, find_handshake

logger = logging.getLogger(__name__)

_LINGER_SECONDS = 1
_SUBPROTOCOLS = (
    "Offer another subprotocol beside bearer.<token>, each of letters, digits and"
    " !#$%&'*+-.^_`|~: the server selects one, and never the token.\n"
)
_OUTCOMES = {400: "bad_request", 403: "origin", 404: "not_found", 503: "draining"}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LOCAL_HOSTS = [".localhost", "127.0.0.1", "[::1]"]


class NodeMiddleware:
    """
    Puts the node of this process into the scope; the outermost middleware.

    The startup event of a server starts the node; without one, because daphne sends
    none and others may be told not to, the first connection or request does. Probes
    are answered here, ahead of the application.
    """

    gives_node = True

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
        if "asgi" in scope:
            await start_without_lifespan(node)
        else:  # The scope of a unit test: only a server sets the key.
            await node.start()
        scope = with_script_prefix(scope, settings.FORCE_SCRIPT_NAME)
        # A close request after this moment concerns this handshake too.
        scope = with_extension(scope, ARRIVED, node.clock())
        scope["node"] = node
        handshake = None
        if scope["type"] == "websocket":
            scope, send = begin_handshake(scope, send, node)
            handshake = find_handshake(scope)
            if node.is_draining:
                await deny(scope, send, 503, [(b"retry-after", b"1")])
                return
        # A tuple takes a third of the memory of a dict.
        secrets = tuple(scope.get(key) for key in SECRET_KEYS)
        try:
            serving = self.application(scope, receive, send)
            # This frame lasts as long as the connection, this scope need not.
            del scope
            await serving
        except Exception as exc:
            if handshake is not None:
                handshake.finish(close_codes.INTERNAL_ERROR.reason, 500)
            # The server logs the exception; it must show no secret.
            shown = conceal(exc, dict(zip(SECRET_KEYS, secrets, strict=True)))
            if shown is exc:
                raise
            raise shown from None
        finally:
            if handshake is not None:
                handshake.finish("unanswered")


class OriginMiddleware:
    """Refuses foreign origins and hosts with 403 before the accept."""

    # asgiref takes a callable that is no coroutine function for ASGI 2.
    _asgi_single_callable = True

    def __init__(self, application: Application) -> None:
        self.application = application
        self._log = SourceLog()

    def __call__(self, scope: Message, receive: Receive, send: Send) -> Awaitable[None]:
        # A coroutine here would cost memory for as long as the connection lives.
        node: Node = scope["node"]
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
            allowed=node.config.allowed_origins,
            has_own_credential=node.authenticator.is_explicit(scope),
        ):
            if not (is_host_allowed and node.config.enforce.observes("origin")):
                return refuse_origin(scope, send, source)
            # The router knows the route, which decides.
            scope = {**scope, "foreign_source": source}
        scope = remove_ambient(scope)
        scope = with_address(with_scheme(scope, source), source)
        return self.application(scope, receive, send)


def refuse_origin(scope: Message, send: Send, source: Source) -> Awaitable[None]:
    """Refuse a handshake with a foreign host or origin, and log it."""
    origin = find_origin(scope)
    is_bare = not origin and _is_host_allowed(source.host)
    logger.info(
        "A handshake for %.100s was refused: %s; from %s, host %.100r, origin %.100r",
        quote(scope["path"], errors="replace"),
        "no Origin and no credential" if is_bare else "foreign host or origin",
        show_address(source.address),
        source.host,
        origin,
        extra={
            "event": "origin_refused",
            "address": reduce_address(source.address),
            "host": source.host[:100],
            "origin": origin[:100],
        },
    )
    return deny(scope, send, 403)


class CredentialMiddleware:
    """
    Asks the credential backends of the configuration, or others, for the client.

    A refused handshake is accepted and closed with its code, because before the
    accept a browser sees only 1006 and would retry without end.
    """

    def __init__(self, application: Application, backends: Sequence[str] = ()) -> None:
        self.application = application
        self._backends = backends

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        # This frame lasts as long as the connection: the former scope need not, nor
        # what describes the client.
        described = await self._describe(scope, receive, send)
        del scope
        if described is not None:
            await self.application(described, receive, send)

    async def _describe(
        self, scope: Message, receive: Receive, send: Send
    ) -> Message | None:
        """Return the scope with the client, or None for a handshake that is refused."""
        offered = scope.get("subprotocols") or []
        cleaned = remove_credentials(scope)
        if offered and not (
            cleaned["subprotocols"] and all(map(_TOKEN.fullmatch, offered))
        ):
            # RFC 6455, section 4.1: a subprotocol is a token of RFC 2616. A browser
            # fails the connection unless one of its subprotocols is selected, and
            # the server must not echo a secret.
            logger.info(
                "A handshake for %.100s was refused: its token is the only subprotocol,"
                " or no subprotocol; from %s",
                quote(scope["path"], errors="replace"),
                show_address(_find_address(scope)),
                extra={"event": "subprotocols_refused"},
            )
            await deny(scope, send, 400, text=_SUBPROTOCOLS)
            return None
        try:
            credential = await self._admit(scope)
            database = scope["node"].database
            cleaned |= await describe_client(cleaned, credential, database)
        except Refused as exc:
            await reject(cleaned, receive, send, exc)
            return None
        except Exception:
            _count(scope, close_codes.INTERNAL_ERROR.reason)
            raise
        return cleaned

    async def _admit(self, scope: Message) -> Credential:
        """
        Return the credential of a handshake that the gate admits.

        Raises:
            Refused: the credential, client or address is not admitted.
        """
        node: Node = scope["node"]
        address = _find_address(scope)
        await node.gate.open()
        node.gate.check_address(address)
        credential = await node.authenticator.authenticate(
            scope, address, self._backends
        )
        if credential is None:
            credential = _make_anonymous(scope, address)
        user_id = credential.user.pk if credential.user else None
        node.gate.check(credential.client_id, user_id, address)
        if not credential.covers(remove_script_prefix(scope), scope.get("route", "")):
            raise Refused(close_codes.FORBIDDEN, credential.client_id)
        return credential


def _make_anonymous(scope: Message, address: str) -> Credential:
    """
    Return the credential of a client for which no backend found one.

    Raises:
        Refused: anonymous clients are not admitted.
    """
    if not scope["node"].config.anonymous:
        raise Refused(close_codes.UNAUTHENTICATED)
    found = find_user_credential(scope)
    client_id = name_address(address or "unix")
    return found or Credential(client_id=client_id, is_anonymous=True)


async def deny(
    scope: Message,
    send: Send,
    status: int,
    headers: list[tuple[bytes, bytes]] | None = None,
    text: str = "",
) -> None:
    """
    Refuse a handshake with an HTTP status, and a text that says why.

    A server that supports no other status answers 403 without the text.
    """
    _count(scope, _OUTCOMES.get(status, "denied"))
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close"})
        return
    start = {"type": "websocket.http.response.start", "status": status}
    body = text.encode()
    described = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
    ]
    await send({**start, "headers": [*described, *(headers or ())]})
    await send({"type": "websocket.http.response.body", "body": body})


async def reject(scope: Message, receive: Receive, send: Send, exc: Refused) -> None:
    """Accept a handshake, and close it with a code and reason."""
    close_reason = exc.close_reason
    _count(scope, close_reason.reason, exc.client_id or "")
    offered = scope.get("subprotocols") or []
    selected = offered[0] if offered else None
    if close_reason is not close_codes.RATE_LIMITED:  # The gate logs these, rarely.
        _log_refusal(scope, exc)
    accept = {"type": "websocket.accept", "subprotocol": selected}
    await send({**accept, "compression": False})
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
    address, origin = _find_address(scope), find_origin(scope)
    logger.info(
        "A handshake for %.100s was refused: %s; from %s, client %.100r, origin %.100r",
        quote(scope["path"], errors="replace"),
        exc.close_reason.reason,
        show_address(address),
        exc.client_id,
        origin,
        extra={
            "event": "credentials_refused",
            "reason": exc.close_reason.reason,
            "address": reduce_address(address),
            "origin": origin[:100],
            "client_id": exc.client_id or NOTHING,
        },
    )


def _count(scope: Message, outcome: str, client_id: str = "") -> None:
    """Count a handshake that was refused before its consumer."""
    handshake = find_handshake(scope)
    if handshake is not None:
        handshake.refusal = outcome
    node: Node | None = scope.get("node")
    if node is not None:
        route = scope.get("route", "")
        node.counters.record_outcome(route, outcome)
        address = reduce_address(_find_address(scope))
        node.top.record_refused(client_id, address, route)


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
