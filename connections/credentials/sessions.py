"""Verify Django sessions; read them and never write them."""

import hashlib
from functools import lru_cache
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import (
    BACKEND_SESSION_KEY,
    HASH_SESSION_KEY,
    SESSION_KEY,
    get_user_model,
    load_backend,
)
from django.contrib.sessions.backends.cache import SessionStore as CacheStore
from django.core.cache.backends.base import InvalidCacheKey
from django.db import DatabaseError, router
from django.utils import timezone
from django.utils.crypto import constant_time_compare

from connections import close_codes
from connections.asgi import Message
from connections.credentials.identity import Credential, find_scope_user, name_user
from connections.exceptions import DatabaseUnavailable, Refused
from connections.storage.text import is_storable
from connections.units import as_utc


def digest_session_key(session_key: str) -> str:
    """Return a digest that identifies a session and reveals no key."""
    return hashlib.sha256(session_key.encode()).hexdigest()


def verify_session(session_key: str) -> Credential:
    """
    Return the credential of a logged-in session; reads the database.

    Unlike django.contrib.auth.get_user() it never rotates or flushes the
    session: a WebSocket cannot set the browser's new cookie.

    Raises:
        Refused: the session does not exist, or has no active user.
    """
    if not is_storable(session_key):
        # A quoted cookie may hold any character as an octal escape.
        raise Refused(close_codes.UNAUTHENTICATED)
    session = make_store(session_key)
    user = _find_user(session)
    if user is None or not user.is_active:
        raise Refused(close_codes.UNAUTHENTICATED)
    expires_at = find_expiry(session)
    return Credential(
        client_id=name_user(user),
        user=user,
        session=session,
        session_digest=digest_session_key(session_key),
        expires_at=as_utc(expires_at) if expires_at else None,
        password_hash=session.get(HASH_SESSION_KEY, ""),
    )


def get_session_rows(model: Any) -> Any:
    """Return the rows of sessions, from the database that takes their writes."""
    return model.objects.using(router.db_for_write(model))


def make_store(session_key: str | None) -> Any:
    """Return a session of the project's engine; see _current() and _honest()."""
    store = import_module(settings.SESSION_ENGINE).SessionStore
    find_model = getattr(store, "get_model_class", None)
    if find_model is not None:
        model = find_model()
        if router.db_for_read(model) != router.db_for_write(model):
            store = _current(store)
    elif store.load is CacheStore.load:
        store = _honest(store)
    return store(session_key)


@lru_cache
def _current(store: Any) -> Any:
    """
    Return a subclass of a session engine that reads from the primary.

    A client connects right after its login, when a replica may lack the session.
    """

    class CurrentStore(store):
        def load(self) -> dict[str, Any]:
            rows = get_session_rows(self.get_model_class())
            valid = rows.filter(
                session_key=self.session_key, expire_date__gt=timezone.now()
            )
            row = valid.first()
            return self.decode(row.session_data) if row is not None else {}

    # The name is part of the key that signs sessions.
    CurrentStore.__qualname__ = store.__qualname__
    return CurrentStore


@lru_cache
def _honest(store: Any) -> Any:
    """
    Return a subclass of an engine of sessions in a cache that reports an outage.

    load() of Django answers as if the session did not exist: an outage of the cache
    would log every client out.
    """

    class HonestStore(store):
        def load(self) -> dict[str, Any]:
            try:
                found: dict[str, Any] | None = self._cache.get(self.cache_key)
            except InvalidCacheKey:
                found = None
            except DatabaseError:
                raise  # The cache is a table.
            except Exception as exc:
                kind = type(exc).__name__
                raise DatabaseUnavailable(f"the cache of sessions: {kind}") from exc
            if found is None:
                self._session_key = None
                return {}
            return found

    HonestStore.__qualname__ = store.__qualname__
    return HonestStore


def is_hash_valid(session: Any, user: Any) -> bool:
    """Return True if a session belongs to the current password of its user."""
    if not hasattr(user, "get_session_auth_hash"):
        return True  # As in django.contrib.auth.get_user().
    return is_password_hash(session.get(HASH_SESSION_KEY, ""), user)


def find_password_hash(user: Any) -> str:
    """Return the hash that the sessions of a user have; empty for no user model's."""
    if not isinstance(user, get_user_model()):
        return ""
    find_hash = getattr(user, "get_session_auth_hash", None)
    return find_hash() if find_hash is not None else ""


def is_password_hash(known: str, user: Any) -> bool:
    """Return True if a hash is that of the current password of a user."""
    valid = [user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()]
    return any(constant_time_compare(known, one) for one in valid)


def find_user_credential(scope: Message) -> Credential | None:
    """
    Return the credential of the user that a middleware found; reads no database.

    If the session that the middleware has read is that of the user, the credential
    ends with it; otherwise with the user's password. The end of a session in a row
    is unknown here. Without a database nobody could see that it was extended.
    """
    user = find_scope_user(scope)
    if user is None:
        return None
    session: Any = scope.get("session")
    key = getattr(session, "session_key", None)
    # A session that no middleware has read would be read here, on the event loop.
    if key and session.accessed and _is_of(session, user):
        knows_end = scope["node"].database is not None and not has_rows(session)
        return Credential(
            client_id=name_user(user),
            user=user,
            session=make_store(key),
            session_digest=digest_session_key(key),
            expires_at=as_utc(session.get_expiry_date()) if knows_end else None,
            password_hash=session.get(HASH_SESSION_KEY, ""),
        )
    return Credential(
        client_id=name_user(user), user=user, password_hash=find_password_hash(user)
    )


def _is_of(session: Any, user: Any) -> bool:
    meta = getattr(user, "_meta", None)
    known = session.get(SESSION_KEY)
    return meta is not None and known == meta.pk.value_to_string(user)


def has_rows(session: Any) -> bool:
    """Return True if a session, or the sessions of an engine, are rows of a table."""
    return hasattr(session, "get_model_class")


def find_expiry(session: Any) -> Any:
    """Return the end of a session; get_expiry_date() would count from now."""
    if not has_rows(session):
        return session.get_expiry_date()
    model = session.get_model_class()
    rows = get_session_rows(model).filter(session_key=session.session_key)
    return rows.values_list("expire_date", flat=True).first()


def _find_user(session: Any) -> Any:
    """Return the user of a session if its hash is valid."""
    path, user_id = session.get(BACKEND_SESSION_KEY), session.get(SESSION_KEY)
    if user_id is None or path not in settings.AUTHENTICATION_BACKENDS:
        return None
    primary_key = get_user_model()._meta.pk.to_python(user_id)
    user = load_backend(path).get_user(primary_key)
    if user is None:
        return None
    return user if is_hash_valid(session, user) else None
