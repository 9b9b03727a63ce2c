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
from django.db import router
from django.utils import timezone
from django.utils.crypto import constant_time_compare

from connections import close_codes
from connections.credentials.identity import Credential, name_user
from connections.exceptions import Refused
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
    expires_at = _find_expiry(session)
    return Credential(
        client_id=name_user(user),
        user=user,
        session=session,
        session_digest=digest_session_key(session_key),
        expires_at=as_utc(expires_at) if expires_at else None,
    )


def get_session_rows(model: Any) -> Any:
    """Return the rows of sessions, from the database that takes their writes."""
    return model.objects.using(router.db_for_write(model))


def make_store(session_key: str | None) -> Any:
    """Return a session of the project's engine, not read from a replica."""
    store = import_module(settings.SESSION_ENGINE).SessionStore
    find_model = getattr(store, "get_model_class", None)
    if find_model is not None:
        model = find_model()
        if router.db_for_read(model) != router.db_for_write(model):
            store = _current(store)
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


def is_hash_valid(session: Any, user: Any) -> bool:
    """Return True if a session belongs to the current password of its user."""
    known = session.get(HASH_SESSION_KEY, "")
    valid = [user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()]
    return any(constant_time_compare(known, one) for one in valid)


def _find_expiry(session: Any) -> Any:
    """Return the end of a session; get_expiry_date() would count from now."""
    find_model = getattr(session, "get_model_class", None)
    if find_model is None:
        return session.get_expiry_date()
    rows = get_session_rows(find_model()).filter(session_key=session.session_key)
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
