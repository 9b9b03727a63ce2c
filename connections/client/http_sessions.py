"""List, rename and delete a client's sessions over HTTP, and read their entries."""

import asyncio
import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode, urlsplit

from connections.client.connect import read_retry_after
from connections.client.http_members import MemberCalls, make_path
from connections.client.outbox import RequestFailed
from connections.client.tokens import GetToken, Token, ask_token
from connections.client.transcript import Entry, read_entry

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSession:
    """A session of the client, without its entries."""

    id: str
    title: str
    role: str | None
    """The client's own: owner, writer, reader or agent; None from earlier releases."""
    epoch: str
    last_offset: int
    created_at: datetime
    last_seen_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[Item]):
    """A part of a list, and the cursor of the next part, None after the last one."""

    items: list[Item]
    next_cursor: str | None


class HttpSessions(MemberCalls):
    """
    The sessions of one client over HTTP, and their members.

    All methods raise RequestFailed with the server's `code`, with `network` where no
    answer arrived, or with `http_502` and the like where a proxy answered.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token = None,
        get_token: GetToken | None = None,
        timeout_seconds: float = 15,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """
        Prepare requests; `url` is that of all sessions (https://host/api/sessions/).

        `get_token` is called before each request, and once more with True if the
        token has expired; `token` is a constant token.

        Raises:
            ValueError: the URL is not http://host/path or https://host/path.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            base = parts._replace(query="", fragment="").geturl()
            raise ValueError(
                f"a URL has to be http://host/path or https://host/path, not {base!r}"
            )
        self._path = parts.path.rstrip("/")
        self._get_token = get_token or (lambda is_expired: token)
        self._can_renew = get_token is not None
        self._connect: Callable[[], HTTPConnection] = lambda: (
            HTTPSConnection(
                parts.hostname or "",
                parts.port,
                timeout=timeout_seconds,
                context=ssl_context,
            )
            if parts.scheme == "https"
            else HTTPConnection(parts.hostname or "", parts.port, timeout_seconds)
        )

    async def list(
        self, *, limit: int = 50, cursor: str | None = None
    ) -> Page[StoredSession]:
        """Return a page of the sessions, the last used first."""
        content = await self._ask("GET", "/", _make_query(limit, cursor))
        items = [_make_session(one) for one in content["items"]]
        return Page(items=items, next_cursor=content["next_cursor"])

    async def get(self, session: str) -> StoredSession:
        """Return one session."""
        return _make_session(await self._ask("GET", make_path(session)))

    async def rename(self, session: str, title: str) -> StoredSession:
        """Set the title of a session; an empty text removes it."""
        body = {"title": title}
        content = await self._ask("PATCH", make_path(session), body=body)
        return _make_session(content)

    async def delete(self, session: str) -> None:
        """Delete a session, whose connections then end with 4004."""
        await self._ask("DELETE", make_path(session))

    async def entries(
        self, session: str, *, limit: int = 50, cursor: str | None = None
    ) -> Page[Entry]:
        """Return a page of entries in order; the newest come first, then older ones."""
        path = f"{make_path(session)}entries/"
        content = await self._ask("GET", path, _make_query(limit, cursor))
        items = [read_entry(one) for one in content["items"]]
        return Page(items=items, next_cursor=content["next_cursor"])

    async def post(self, session: str, message: dict[str, Any]) -> Any:
        """Post a message of the session protocol; return its ack, if it has one."""
        return await self._ask("POST", f"{make_path(session)}messages/", body=message)

    async def _ask(
        self, method: str, path: str, query: str = "", body: Any = None
    ) -> Any:
        """Send a request, and again with a new token if its token has expired."""
        target = self._path + path + (f"?{query}" if query else "")

        async def attempt(is_expired: bool) -> Any:
            token = await ask_token(self._get_token, is_expired)
            return await asyncio.to_thread(self._exchange, method, target, token, body)

        try:
            return await attempt(False)
        except RequestFailed as exc:
            if exc.code != "unauthenticated" or not self._can_renew:
                raise
        return await attempt(True)

    def _exchange(self, method: str, target: str, token: Token, body: Any) -> Any:
        """Send one request on a connection of its own, and read the answer."""
        headers = {"Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection = self._connect()
        try:
            sent = None if body is None else json.dumps(body).encode()
            connection.request(method, target, sent, headers)
            response = connection.getresponse()
            status, raw = response.status, response.read()
            asked = read_retry_after(response.headers.get_all("Retry-After", []))
        except (OSError, HTTPException) as exc:
            raise RequestFailed("network", f"no answer: {exc!r}") from exc
        finally:
            connection.close()
        return _read(status, raw, asked)


def _read(status: int, raw: bytes, retry_after_seconds: float | None) -> Any:
    """
    Return the content of an answer.

    Raises:
        RequestFailed: the answer is an error, or not of the server but of a proxy.
    """
    if status == 204:
        return None
    try:
        content = json.loads(raw)
        if status in (200, 201):
            return content
        error = content["error"]
        code, message = error["code"], error["message"]
    except (ValueError, LookupError, TypeError):
        code, message = f"http_{status}", "the answer is no JSON of ours"
    raise RequestFailed(code, message, retry_after_seconds=retry_after_seconds)


def _make_query(limit: int, cursor: str | None) -> str:
    return urlencode({"limit": limit} | ({"cursor": cursor} if cursor else {}))


def _make_session(content: dict[str, Any]) -> StoredSession:
    return StoredSession(
        id=content["id"],
        title=content["title"],
        role=content.get("role"),
        epoch=content["epoch"],
        last_offset=content["last_offset"],
        created_at=datetime.fromisoformat(content["created_at"]),
        last_seen_at=datetime.fromisoformat(content["last_seen_at"]),
    )
