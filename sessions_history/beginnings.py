"""Begin and delete sessions; this module runs in a database thread."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from django.db import transaction
from django.utils import timezone

from connections.models.alias import atomic, get_alias, get_connection
from sessions_history.exceptions import SessionNotFound, TooManySessions
from sessions_history.models import DeletedSession, Session
from sessions_history.session_ids import is_recent_id
from sessions_history.signals import session_created

_SEEN_LATELY_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """A provisional session, which its first entry inserts."""

    session_id: str
    client_id: str
    user_id: int | None
    epoch: str


def begin_session(
    beginning: Beginning, max_sessions: int = 0, *, replaces_unused: bool = False
) -> None:
    """
    Insert a session if its client has less than max_sessions (0: no limit).

    At the limit the client's oldest empty session makes room, or with
    replaces_unused the one unused for longest; neither if it was seen within the
    last minute. A session that another node has begun meanwhile stays as it is. The
    caller has begun a transaction.

    Raises:
        SessionNotFound: the session was deleted, or belongs to another client.
        TooManySessions: the client has its limit; exact across nodes.
    """
    if max_sessions:
        lock_client(beginning.client_id)
    if _insert_below(beginning, max_sessions):
        return
    for rows in (DeletedSession.objects, Session.objects):
        if rows.filter(pk=beginning.session_id).exists():
            raise SessionNotFound
    # A refused session takes the place of none.
    with atomic():
        _make_room(beginning.client_id, replaces_unused=replaces_unused)
        if not _insert_below(beginning, max_sessions):
            raise TooManySessions


def delete_session(
    session_id: str, client_id: str, check: Callable[[], None] | None = None
) -> None:
    """
    Delete a session of a client with all that belongs to it.

    Its id is kept for a day, so that nobody begins the session again, nor the client
    that began it and handed it over. A check runs first, on the locked row.

    Raises:
        SessionNotFound: it does not exist, or belongs to another client.
    """
    is_recent = is_recent_id(session_id, client_id)
    found = Session.objects.filter(session_id=session_id)
    with atomic():
        # Locked first, as by an append, which would add rows to those found below.
        is_stored = found.update(session_id=session_id)
        if check is not None:
            if not is_stored:
                raise SessionNotFound
            check()
        deleted, _ = found.filter(client_id=client_id).delete()
        if not deleted and (not is_recent or found.exists()):
            raise SessionNotFound
        tombstone = DeletedSession(session_id=session_id)
        DeletedSession.objects.bulk_create([tombstone], ignore_conflicts=True)


def _make_room(client_id: str, *, replaces_unused: bool) -> None:
    """Delete one session of a client, if one may go."""
    seen_before = timezone.now() - timedelta(seconds=_SEEN_LATELY_SECONDS)
    found = Session.objects.filter(client_id=client_id, last_seen_at__lt=seen_before)
    oldest = found.empty().order_by("last_seen_at").first()
    if oldest is None and replaces_unused:
        oldest = found.order_by("last_seen_at").first()
    if oldest is not None:
        delete_session(oldest.session_id, client_id)


def _insert_below(beginning: Beginning, limit: int) -> bool:
    """
    Insert a session if its client has less than so many (0: no limit).

    Returns True if the session exists now.
    """
    connection = get_connection()
    now = connection.ops.adapt_datetimefield_value(timezone.now())
    user = Session._meta.get_field("user")
    session_id, client_id = beginning.session_id, beginning.client_id
    sql = (
        "INSERT INTO sessions_history_session (session_id, client_id, user_id,"
        " epoch, last_offset, created_at, last_seen_at)"
        " SELECT %s, %s, %s, %s, 0, %s, %s WHERE NOT EXISTS ("
        "SELECT 1 FROM sessions_history_deletedsession WHERE session_id = %s)"
    )
    values = [
        session_id,
        client_id,
        user.get_db_prep_save(beginning.user_id, connection),
        beginning.epoch,
        now,
        now,
        session_id,
    ]
    if limit:
        sql += (
            " AND (SELECT count(*) FROM (SELECT 1 FROM sessions_history_session"
            " WHERE client_id = %s LIMIT %s) AS existing) < %s"
        )
        values += [client_id, limit, limit]
    with connection.cursor() as cursor:
        cursor.execute(f"{sql} ON CONFLICT (session_id) DO NOTHING", values)
        is_inserted = bool(cursor.rowcount)
    if is_inserted:
        _send_on_commit(beginning)
    own = Session.objects.filter(session_id=session_id, client_id=client_id)
    return is_inserted or own.exists()


def _send_on_commit(beginning: Beginning) -> None:
    if session_created.is_received:
        session = Session(
            session_id=beginning.session_id,
            client_id=beginning.client_id,
            user_id=beginning.user_id,
            epoch=beginning.epoch,
        )
        send = partial(session_created.send_soon, [session])
        transaction.on_commit(send, using=get_alias(), robust=True)


def lock_session(session_id: str) -> Session:
    """
    Lock a session, so that what is read of it holds until the transaction ends.

    Raises:
        SessionNotFound: it does not exist.
    """
    # A write locks on SQLite as well, which has no FOR UPDATE.
    rows = Session.objects.filter(pk=session_id)
    if not rows.update(session_id=session_id):
        raise SessionNotFound
    return rows.get()


def lock_client(client_id: str) -> None:
    """Make other transactions that begin a session for this client wait."""
    connection = get_connection()
    if connection.vendor == "postgresql":
        # On SQLite only one transaction writes at a time.
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))",
                [f"session of {client_id}"],
            )
