"""Read and rename the sessions of one client; this module runs in a database thread."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from django.core import signing
from django.db.models import Case, CharField, OuterRef, Q, Subquery, Value, When
from django.utils.crypto import salted_hmac
from django.utils.http import parse_etags

from connections.api.errors import ApiError, forbidden, not_found
from connections.api.resources import Resource
from connections.models.alias import atomic
from sessions_history.member_models import Role
from sessions_history.models import HistoryEntry, Session, SessionMember
from sessions_history.reads import read_latest_entries
from sessions_history.roles import find_access

_SALT = "sessions_history.http"
_END = 2**63 - 1
_OWNER = Value(Role.OWNER.value, CharField())
_USED = ("last_offset", "last_seen_at")
"""The fields of a session that its mere use changes."""

_SEPARATOR = "."


def find_own(client_id: str) -> Resource:
    """Return the sessions of one client, the last used first."""
    return Resource(
        name="own_sessions",
        item="session",
        about="The sessions of the client.",
        permission="",
        rows=lambda: Session.objects.filter(client_id=client_id).annotate(role=_OWNER),
        order=("-last_seen_at", "-session_id"),
        key="session_id",
        fields={
            "id": "session_id",
            "title": "title",
            "role": "role",
            "epoch": "epoch",
            "last_offset": "last_offset",
            "created_at": "created_at",
            "last_seen_at": "last_seen_at",
        },
    )


def find_shared(client_id: str, user_id: Any, session_id: str = "") -> Resource:
    """
    Return the sessions of a client, and those that its user is a member of.

    Of the latter only one may be wanted.
    """
    own = find_own(client_id)

    def find_rows() -> Any:
        members = SessionMember.objects.filter(user=user_id)
        if session_id:
            members = members.filter(session=session_id)
        ids = list(members.values_list("session", flat=True)) if user_id else []
        if not ids:
            # The condition stays that of the index of lists.
            return own.rows()
        role = members.filter(session=OuterRef("pk")).values("role")[:1]
        return Session.objects.filter(Q(client_id=client_id) | Q(pk__in=ids)).annotate(
            role=Case(When(client_id=client_id, then=_OWNER), default=Subquery(role))
        )

    return replace(own, rows=find_rows)


def find_owner_id(client_id: str, user_id: Any, session_id: str) -> str:
    """
    Return the client id of the owner of a session, if that is who asks.

    Of a session that does not exist it is that of the client.

    Raises:
        ApiError: 404, the client has no role in it; 403, it has another one.
    """
    owner_id, role = find_access(session_id, client_id, user_id)
    if not owner_id:
        return client_id
    if role is None:
        raise not_found("session", session_id)
    if role is not Role.OWNER:
        raise forbidden("not_owner", "Only the owner of the session may do this.")
    return owner_id


def require_role(client_id: str, user_id: Any, session_id: str) -> Role:
    """
    Return the role of a client, or its user, in a session.

    Raises:
        ApiError: 404, it has none.
    """
    _, role = find_access(session_id, client_id, user_id)
    if role is None:
        raise not_found("session", session_id)
    return role


def make_etag(content: str) -> str:
    """Return the ETag of the text of an answer (RFC 9110, section 8.8.3)."""
    digest = salted_hmac(_SALT, content, algorithm="sha256").hexdigest()
    return f'"{digest[:32]}"'


def make_session_etag(item: Mapping[str, Any]) -> str:
    """
    Return the ETag of a session: what can be changed, and the whole.

    Mere use of the session changes the second part alone. If-None-Match compares both
    parts, If-Match the first.
    """
    lasting = {name: one for name, one in item.items() if name not in _USED}
    parts = (make_etag(json.dumps(one)).strip('"') for one in (lasting, item))
    return f'"{_SEPARATOR.join(parts)}"'


def check_match(client_id: str, session_id: str, if_match: str) -> None:
    """
    Check that If-Match names a session of a client; the caller has locked its row.

    Weak ETags match too: a proxy that compresses an answer makes its ETag weak.

    Raises:
        ApiError: 404, the client has no such session; 412, it has changed.
    """
    current = _find_lasting(
        make_session_etag(find_own(client_id).read_item(session_id))
    )
    etags = parse_etags(if_match)
    if "*" not in etags and current not in map(_find_lasting, etags):
        raise ApiError(
            412,
            "changed",
            "The session has changed since the ETag of If-Match: read it again,"
            " or leave the header out.",
        )


def _find_lasting(etag: str) -> str:
    return etag.removeprefix("W/").strip('"').partition(_SEPARATOR)[0]


def rename(
    client_id: str, session_id: str, title: str, if_match: str | None
) -> dict[str, Any]:
    """
    Set the title of a session, and return the session.

    Raises:
        ApiError: 404, the client has no such session; 412, it is not the one that
            If-Match names.
    """
    own = find_own(client_id)
    with atomic():
        row = own.rows().select_for_update().filter(pk=session_id)
        if not row.exists():
            raise not_found("session", session_id)
        if if_match is not None:
            check_match(client_id, session_id, if_match)
        row.update(title=title)
        return own.read_item(session_id)


def read_entries(session_id: str, query: Mapping[str, Any]) -> str:
    """
    Return a page of a session's entries as JSON, the newest page first.

    The entries of a page are in order, each as the messages of the socket have it,
    with its parts.

    Raises:
        ApiError: 404, there is no such session; 400, the cursor is of another list;
            409, the log began anew since.
    """
    found = Session.objects.filter(pk=session_id)
    position = found.values_list("epoch", "last_offset").first()
    if position is None:
        raise not_found("session", session_id)
    epoch, last_offset = position
    before = _read_cursor(session_id, epoch, query["cursor"])
    entries = read_latest_entries(session_id, before, query["limit"])
    cursor = None
    if entries:
        first = entries[0].offset
        older = HistoryEntry.objects.filter(session=session_id, offset__lt=first)
        if older.exists():
            cursor = signing.dumps([epoch, first], salt=f"{_SALT}.{session_id}")
    head = {"session": session_id, "epoch": epoch, "last_offset": last_offset}
    items = ",".join(entry.to_wire(has_parts=True) for entry in entries)
    start = json.dumps({**head, "next_cursor": cursor}).removesuffix("}")
    return f'{start}, "items": [{items}]}}'


def _read_cursor(session_id: str, epoch: str, cursor: str | None) -> int:
    """Return the offset before which a page ends."""
    if cursor is None:
        return _END
    try:
        of_epoch, offset = signing.loads(cursor, salt=f"{_SALT}.{session_id}")
    except signing.BadSignature as exc:
        raise ApiError(
            400,
            "invalid_cursor",
            "cursor is not the next_cursor of a page of this session; leave it out to"
            " begin with the newest page.",
        ) from exc
    if of_epoch != epoch:
        raise ApiError(
            409,
            "reset",
            "The log of the session began anew since the cursor was made; leave it out"
            " to begin with the newest page.",
        )
    return int(offset)
