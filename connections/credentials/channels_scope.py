"""Give a scope the keys of Channels' AuthMiddlewareStack: cookies, session, user."""

import copy
from collections.abc import Iterable
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth.models import AnonymousUser

from connections.asgi import Message
from connections.credentials.identity import Credential
from connections.credentials.sessions import make_store
from connections.deadline import deadline
from connections.exceptions import DatabaseUnavailable
from connections.net.cookies import read_cookies
from connections.storage.database import Database
from connections.storage.text import is_storable

_TIMEOUT_SECONDS = 2


def parse_cookies(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the cookies of a handshake; of several with one name the last."""
    cookies: dict[str, str] = {}
    for key, value in headers:
        if key == b"cookie":
            for name, text in read_cookies(value.decode("latin-1")):
                if name or text:
                    cookies[name] = text
    return cookies


async def describe_client(
    scope: Message, credential: Credential, database: Database | None
) -> Message:
    """
    Return the keys that a scope has by its credential and cookies.

    A session that a middleware of the project has put into the scope stays there.
    Otherwise the session is that of the credential, else that of the cookie, else
    an empty one without a key, so that a consumer can call login() and logout() of
    channels.auth. It is an object of the consumer's own: what the node rechecks
    stays the session of the handshake. A session of the cookie does not tell who
    the client is; the user is that of the credential.
    """
    cookies = parse_cookies(scope["headers"])
    session = scope.get("session")
    if session is None and credential.session is not None:
        session = copy_session(credential.session)
    elif session is None:
        key = cookies.get(settings.SESSION_COOKIE_NAME)
        session = await _open_session(key, database)
    return {
        "cookies": cookies,
        "credential": credential,
        "session": session,
        "user": credential.user or AnonymousUser(),
    }


def copy_session(session: Any) -> Any:
    """Return a session with the same key and values, which changes by itself."""
    values = dict(session.items())
    copied = copy.copy(session)
    copied.clear()
    copied.update(copy.deepcopy(values))
    copied.accessed = copied.modified = False
    return copied


async def _open_session(key: str | None, database: Database | None) -> Any:
    """
    Return a session by its cookie, loaded, because a consumer cannot load it.

    While the database is away it is not loaded: its first use raises.
    """
    if not key or not is_storable(key) or not _has_sessions():
        return make_store(None)
    session = make_store(key)
    if database is not None:
        try:
            async with deadline(_TIMEOUT_SECONDS):
                await database.read(session.keys)
        except (DatabaseUnavailable, TimeoutError):
            return session
    return session


def _has_sessions() -> bool:
    """Return False if the engine needs tables that the project does not have."""
    is_default = settings.SESSION_ENGINE == "django.contrib.sessions.backends.db"
    return not is_default or apps.is_installed("django.contrib.sessions")
