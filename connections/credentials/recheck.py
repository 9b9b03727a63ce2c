"""Find the connections that may not stay, in few queries for hundreds."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import SESSION_KEY, get_user_model
from django.core.exceptions import ValidationError
from django.db import DatabaseError, DataError

from connections import close_codes
from connections.close_codes import CloseReason
from connections.config.loader import get_config
from connections.credentials.requirements import Requirements, find_lacking
from connections.credentials.sessions import (
    get_session_rows,
    has_rows,
    is_hash_valid,
    is_password_hash,
    make_store,
)
from connections.models import AccessToken
from connections.models.user_key import get_users
from connections.units import as_utc, utc_now

_EXPIRY_SECONDS = 5
"""The time that a node takes, with its beat, to close expired connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorisationSnapshot:
    """The facts that the right of one connection to stay depends on."""

    connection_id: str
    user_id: Any = None
    token_id: int | None = None
    session_key: str | None = None
    password_hash: str = ""
    backend: str = ""
    expires_at: datetime | None = None
    has_expired: bool = False
    """Whether an earlier check has found that it has expired."""

    requirements: Requirements = field(default_factory=Requirements)

    def __bool__(self) -> bool:
        """Return True if any of these can be revoked."""
        return bool(
            self.user_id is not None
            or self.token_id is not None
            or self.session_key
            or self.backend
            or self.requirements
        )


def find_close_reasons(
    snapshots: Sequence[AuthorisationSnapshot],
) -> dict[str, CloseReason | Exception]:
    """
    Return the close reasons of the connections that may not stay, by id.

    Runs one query each for users, tokens and sessions, and those of
    find_lacking(). A connection whose check fails, for example in a project's
    get_session_auth_hash(), gets the exception; the others are checked. Expiry comes
    last, because it may be observed, and the other reasons may not.
    """
    users = _read_users({one.user_id for one in snapshots} - {None})
    tokens = _read_tokens({one.token_id for one in snapshots} - {None})
    sessions = _read_sessions({one.session_key for one in snapshots if one.session_key})
    lacking = find_lacking(
        (one.requirements, users[one.user_id])
        for one in snapshots
        if one.user_id in users
    )
    found: dict[str, CloseReason | Exception] = {}
    for one in snapshots:
        try:
            close_reason = _check_user(one, users) or _check_token(one, tokens)
            if close_reason is None and one.session_key:
                close_reason = _check_session(one, users, sessions)
            elif close_reason is None:
                close_reason = _check_password(one, users)
            if close_reason is None and _lacks(one, lacking):
                close_reason = close_codes.FORBIDDEN
            if close_reason is None and _has_expired(one, tokens, sessions):
                close_reason = close_codes.TOKEN_EXPIRED
        except Exception as exc:
            found[one.connection_id] = exc
        else:
            if close_reason is not None:
                found[one.connection_id] = close_reason
    return found


def _check_user(
    one: AuthorisationSnapshot, users: dict[Any, Any]
) -> CloseReason | None:
    if one.user_id is None:
        return None
    user = users.get(one.user_id)
    if user is None or not user.is_active:
        return close_codes.DEACTIVATED
    return None


def _check_token(
    one: AuthorisationSnapshot, tokens: dict[Any, Any]
) -> CloseReason | None:
    if one.token_id is None:
        return None
    token = tokens.get(one.token_id)
    if token is None or token.revoked_at is not None:
        return close_codes.REVOKED
    if token.user_id != one.user_id:
        return close_codes.REVOKED
    return None


def _check_session(
    one: AuthorisationSnapshot,
    users: dict[Any, Any],
    sessions: dict[str, dict[str, Any] | Exception],
) -> CloseReason | None:
    session = sessions.get(one.session_key or "")
    if isinstance(session, Exception):
        raise session
    user = users.get(one.user_id)
    if session is None and (one.has_expired or _may_have_ended(one.expires_at)):
        # It has expired, and was removed for that.
        return _check_password(one, users)
    if (
        session is None
        or user is None
        or session.get(SESSION_KEY) != user._meta.pk.value_to_string(user)
        or not is_hash_valid(session, user)
    ):
        return close_codes.LOGGED_OUT
    return None


def _check_password(
    one: AuthorisationSnapshot, users: dict[Any, Any]
) -> CloseReason | None:
    if not one.password_hash:
        return None
    user = users.get(one.user_id)
    if user is None or not is_password_hash(one.password_hash, user):
        return close_codes.LOGGED_OUT
    return None


def _has_expired(
    one: AuthorisationSnapshot,
    tokens: dict[Any, Any],
    sessions: dict[str, dict[str, Any] | Exception],
) -> bool:
    if one.token_id is not None:
        return _is_past(tokens[one.token_id].expires_at)
    if one.session_key is None:
        return False
    session = sessions.get(one.session_key)
    return session is None or isinstance(session, _Expired)


def _is_past(moment: datetime | None) -> bool:
    return moment is not None and as_utc(moment) <= _find_oldest_end()


def _may_have_ended(moment: datetime | None) -> bool:
    """
    Return True if a session that is gone may have reached the end that was known.

    A cache removes it at that end, which is before the check that misses it, and
    counts it from when the session was saved, which is before the handshake.
    """
    if moment is None or has_rows(import_module(settings.SESSION_ENGINE).SessionStore):
        return _is_past(moment)
    least = timedelta(seconds=get_config().reauthorise_seconds)
    return as_utc(moment) - least <= utc_now()


def _find_oldest_end() -> datetime:
    """
    Return the earliest end that a valid credential may have.

    access.expiry warns of an end that the node knows, and closes with 4100 after
    the grace. This check finds an end that was moved forward in the database.
    """
    grace_seconds = get_config().expiry.grace_seconds
    return utc_now() - timedelta(seconds=grace_seconds + _EXPIRY_SECONDS)


def _lacks(
    one: AuthorisationSnapshot, lacking: dict[tuple[Any, Any], Exception | None]
) -> bool:
    if one.user_id is None:
        return bool(one.requirements)
    if (one.requirements, one.user_id) not in lacking:
        return False
    failure = lacking[one.requirements, one.user_id]
    if failure is not None:
        raise failure
    return True


def _read_users(keys: Iterable[Any]) -> dict[Any, Any]:
    """
    Return the users with these keys.

    A key of another authentication, which the user model cannot parse, is left
    out: it would make the query for all keys fail.
    """
    model = get_user_model()
    ours = []
    for key in keys:
        try:
            ours.append(model._meta.pk.to_python(key))
        except (ValidationError, ValueError, TypeError):
            continue
    return _find_users(ours)


def _find_users(keys: Sequence[Any]) -> dict[Any, Any]:
    """Return users; a batch that the database refuses is halved."""
    try:
        return {user.pk: user for user in get_users().filter(pk__in=keys)}
    except (DataError, OverflowError, ValueError):
        # The database cannot hold one of the keys: it is a key of no user.
        if len(keys) == 1:
            return {}
        half = len(keys) // 2
        return _find_users(keys[:half]) | _find_users(keys[half:])


def _read_tokens(keys: Iterable[Any]) -> dict[Any, Any]:
    """Return few columns, because they are read for all connections each minute."""
    rows = AccessToken.objects.filter(pk__in=keys).values_list(
        "pk", "user_id", "revoked_at", "expires_at", named=True
    )
    return {row.pk: row for row in rows}


def _read_sessions(keys: set[str]) -> dict[str, dict[str, Any] | Exception]:
    """
    Return the contents of sessions; those that expired long ago are marked.

    A session that its engine or serializer cannot read is an exception.
    """
    if not keys:
        return {}
    store = import_module(settings.SESSION_ENGINE).SessionStore
    if not has_rows(store):
        # Sessions in a cache, in files or in the cookie are read one by one.
        loaded = {key: _attempt(make_store(key).load) for key in keys}
        return {key: session for key, session in loaded.items() if session}
    rows = get_session_rows(store.get_model_class()).filter(session_key__in=keys)
    return {row.session_key: _attempt(partial(_decode, row)) for row in rows}


class _Expired(dict[str, Any]):
    """The contents of a session that has expired."""


def _decode(row: Any) -> dict[str, Any]:
    decoded: dict[str, Any] = row.get_decoded()
    return _Expired(decoded) if _is_past(row.expire_date) else decoded


def _attempt(load: Callable[[], dict[str, Any]]) -> dict[str, Any] | Exception:
    """Return the contents of a session, or the exception that reading it raised."""
    try:
        return load()
    except DatabaseError:
        raise  # It concerns all of them.
    except Exception as exc:
        return exc
