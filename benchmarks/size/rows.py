"""Fill the tables with rows, made by the database itself in a few statements."""

from collections.abc import Mapping
from dataclasses import dataclass

from django.db.backends.base.base import BaseDatabaseWrapper

from connections.metrics.counters import DURATION_EDGES
from connections.sweeper.rollups import roll_up_hours

NODES = 10
ENTRIES_PER_SESSION = 50
_OPEN_PART = 100
_ERRORS_PART = 5
_MINUTES = 7 * 24 * 60
_USERS = 1000
_TRACEBACK = "Traceback (most recent call last):\n" + 10 * f"  {'a line of code':98}\n"
_BUCKETS = str([1] * (len(DURATION_EDGES) + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How many rows the tables get, as parts of the number of connections."""

    rows: int
    minutes: int = _MINUTES

    @property
    def errors(self) -> int:
        return self.rows // _ERRORS_PART

    @property
    def sessions(self) -> int:
        return self.rows // ENTRIES_PER_SESSION

    @property
    def open(self) -> int:
        return self.rows // _OPEN_PART


def name_row(prefix: str, number: int) -> str:
    """Return the id of a row, by the prefix of its table."""
    return f"{prefix}{number:0{32 - len(prefix)}x}"


class _Dialect:
    """The expressions that SQLite and PostgreSQL write in different ways."""

    def __init__(self, vendor: str) -> None:
        self.is_sqlite = vendor == "sqlite"

    def hex(self, prefix: str, expression: str = "i") -> str:
        """Return the expression of an id of 32 characters."""
        if self.is_sqlite:
            return f"printf('{prefix}%0{32 - len(prefix)}x', {expression})"
        return f"'{prefix}' || lpad(to_hex({expression}), {32 - len(prefix)}, '0')"

    def text(self, prefix: str, expression: str) -> str:
        """Return the expression of a word that ends in a number."""
        return f"'{prefix}' || CAST({expression} AS varchar)"

    def ago(self, seconds: str) -> str:
        """Return the expression of a moment in the past."""
        if self.is_sqlite:
            amount = f"'-' || CAST({seconds} AS varchar) || ' seconds'"
            return f"strftime('%Y-%m-%d %H:%M:%f', 'now', {amount})"
        return f"now() - ({seconds}) * interval '1 second'"

    def soon(self) -> str:
        """Return the expression of a moment in an hour, so that no node looks dead."""
        if self.is_sqlite:
            return "strftime('%Y-%m-%d %H:%M:%f', 'now', '+1 hour')"
        return "now() + interval '1 hour'"

    def minute(self, expression: str) -> str:
        """Return the expression of a minute in the past, as its number since 1970."""
        now = "strftime('%s', 'now')" if self.is_sqlite else "extract(epoch from now())"
        return f"CAST({now} AS bigint) / 60 - ({expression})"

    def numbers(self, count: int) -> tuple[str, str]:
        """Return a clause before SELECT, and the table `n(i)` of count numbers."""
        if self.is_sqlite:
            steps = f"SELECT i + 1 FROM n WHERE i < {count - 1}"
            return f"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL {steps})", "n"
        return "", f"generate_series(0, {count - 1}) AS n(i)"


def fill(database: BaseDatabaseWrapper, sizes: Sizes) -> None:
    """Insert all rows; the newest rows are the last ones."""
    dialect = _Dialect(database.vendor)
    tables = {
        "auth_user": (_USERS, _make_users(dialect)),
        "connections_node": (NODES, _make_nodes(dialect)),
        "connections_connection": (sizes.rows, _make_connections(dialect, sizes)),
        "connections_errorevent": (sizes.errors, _make_errors(dialect, sizes)),
        "connections_minuterollup": (
            NODES * sizes.minutes,
            _make_minutes(dialect),
        ),
        "sessions_history_session": (sizes.sessions, _make_sessions(dialect, sizes)),
        "sessions_history_historyentry": (sizes.rows, _make_entries(dialect, sizes)),
    }
    for table, (count, columns) in tables.items():
        _insert(database, dialect, table, count, columns)
    while roll_up_hours():
        pass


def _insert(
    database: BaseDatabaseWrapper,
    dialect: _Dialect,
    table: str,
    count: int,
    columns: Mapping[str, str],
) -> None:
    before, numbers = dialect.numbers(count)
    names = ", ".join(f'"{name}"' for name in columns)
    values = ", ".join(columns.values())
    with database.cursor() as cursor:
        if not dialect.is_sqlite:
            # A figure must not depend on when autovacuum has last analysed a table.
            cursor.execute(f'ALTER TABLE "{table}" SET (autovacuum_enabled = false)')
        cursor.execute(
            f'INSERT INTO "{table}" ({names}) {before} SELECT {values} FROM {numbers}'
        )


def _make_users(dialect: _Dialect) -> dict[str, str]:
    name = dialect.text("user-", "i + 1")
    no = "0" if dialect.is_sqlite else "false"
    return {
        "id": "i + 1000",
        "username": name,
        "password": "'!'",
        **dict.fromkeys(("first_name", "last_name", "email"), "''"),
        **dict.fromkeys(("is_staff", "is_superuser", "is_active"), no),
        "date_joined": dialect.ago("0"),
    }


def _make_nodes(dialect: _Dialect) -> dict[str, str]:
    zeros = ("generation", "beat", "open_connections", "loop_lag_seconds")
    return {
        "node_id": dialect.hex("ab", "i"),
        "host": dialect.text("web-", "i"),
        "pid": "i + 1",
        "version": "'0'",
        "state": "'serving'",
        "beat_at": dialect.soon(),
        "started_at": dialect.ago("604800 + i"),
        "degraded": "''",
        **dict.fromkeys((*zeros, "rolled_minute"), "0"),
        **dict.fromkeys(("counters", "minute"), "'{}'"),
        "unrolled": "'[]'",
    }


def _make_connections(dialect: _Dialect, sizes: Sizes) -> dict[str, str]:
    """
    Make a client, a user and a node hold a tenth of all connections.

    One end in 100,000 has a reason that no other has, and one in a hundred
    connections is open, the newest ones.
    """
    age = f"({sizes.rows} - i) / 2"
    is_closed = f"i < {sizes.rows - sizes.open}"
    reason = "CASE WHEN i % 100000 = 77 THEN 'banned' WHEN i % 3 = 0 THEN 'idle'"
    counts = ("messages_in", "messages_out", "bytes_in", "bytes_out", "errors")
    user = f"1001 + i % {_USERS - 1}"
    return {
        "connection_id": dialect.hex("01", "i"),
        "client_id": (
            "CASE WHEN i % 10 = 1 THEN 'busy' ELSE "
            f"{dialect.text('client-', 'i % 50000')} END"
        ),
        "user_id": f"CASE WHEN i % 10 = 1 THEN 1000 ELSE {user} END",
        "node_id": dialect.hex("ab", f"i % {NODES}"),
        "path": "'/ws/chat/'",
        "route": "'ws/chat/'",
        "address": dialect.text("192.0.2.", "i % 250"),
        "origin": "'https://example.org'",
        "user_agent": "'Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0'",
        "opened_at": dialect.ago(age),
        "last_activity_at": f"CASE WHEN {is_closed} THEN {dialect.ago(age)}"
        f" ELSE {dialect.soon()} END",
        "closed_at": f"CASE WHEN {is_closed} THEN {dialect.ago(age)} END",
        "close_code": f"CASE WHEN {is_closed} THEN 4300 END",
        "reason": f"CASE WHEN {is_closed} THEN {reason} ELSE 'closed' END ELSE '' END",
        **dict.fromkeys(counts, "i % 100"),
    }


def _make_errors(dialect: _Dialect, sizes: Sizes) -> dict[str, str]:
    return {
        "error_id": dialect.hex("02", "i"),
        "connection_id": dialect.hex("01", f"i * {_ERRORS_PART}"),
        "node_id": dialect.hex("ab", f"i % {NODES}"),
        "at": dialect.ago(f"({sizes.errors} - i) * 2"),
        "exception_class": (
            "CASE WHEN i % 50000 = 9 THEN 'RareError' ELSE "
            f"{dialect.text('Error', 'i % 5')} END"
        ),
        "where": dialect.text("chat/consumers.py:", "i % 20"),
        "route": "'ws/chat/'",
        "traceback": f"'{_TRACEBACK}'",
    }


def _make_minutes(dialect: _Dialect) -> dict[str, str]:
    sums = (
        *("open_connections", "max_open", "opened", "ended", "refused", "evicted"),
        *("messages_in", "messages_out", "bytes_in", "bytes_out", "errors"),
        *("rate_limited", "handled", "handling_seconds", "duration_seconds"),
        *("ack_seconds", "max_loop_lag_seconds", "max_rss_bytes"),
    )
    return {
        "node_id": dialect.hex("ab", f"i % {NODES}"),
        "minute": dialect.minute(f"1 + i / {NODES}"),
        **dict.fromkeys(sums, "i % 100"),
        "ends_by_reason": """'{"idle": 3, "closed": 30, "network": 4}'""",
        "refused_by_outcome": """'{"bad_origin": 2}'""",
        "errors_by_kind": """'{"internal": 3, "rate_limited": 1}'""",
        "resumes_by_outcome": """'{"resumed": 5}'""",
        **dict.fromkeys(("durations", "handling", "acks"), f"'{_BUCKETS}'"),
    }


def _make_sessions(dialect: _Dialect, sizes: Sizes) -> dict[str, str]:
    return {
        "session_id": dialect.hex("03", "i"),
        "client_id": (
            "CASE WHEN i % 10 = 1 THEN 'busy' ELSE "
            f"{dialect.text('client-', 'i % 50000')} END"
        ),
        "user_id": f"1000 + i % {_USERS}",
        "epoch": dialect.hex("04", "i"),
        "last_offset": str(ENTRIES_PER_SESSION),
        "created_at": dialect.ago("3600"),
        "last_seen_at": dialect.ago(f"{sizes.sessions} - i"),
    }


def _make_entries(dialect: _Dialect, sizes: Sizes) -> dict[str, str]:
    """Make one answer in 100,000 an error; every other entry is a client's."""
    return {
        "session_id": dialect.hex("03", f"i % {sizes.sessions}"),
        "offset": f"1 + i / {sizes.sessions}",
        "kind": "'message'",
        "sender": "CASE WHEN i % 2 = 0 THEN 'client' ELSE 'server' END",
        "at": dialect.ago(f"({sizes.rows} - i) / 2"),
        "data": """'{"text": "a message of some words, as people write them"}'""",
        "state": "CASE WHEN i % 100000 = 7 THEN 'error' ELSE 'done' END",
    }
