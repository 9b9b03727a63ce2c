"""Read the close reasons recorded for the connections of attackers."""

import contextlib
import sqlite3
from typing import Any

from connections.hub.flight_recorder import PLANNED_ENDS
from connections.testing import LiveServer


def read_close_reasons(server: LiveServer, network: str) -> set[str]:
    """
    Return the close codes and reasons recorded for addresses with this prefix.

    An open connection has neither and appears as " ".
    """
    return {f"{code or ''} {reason}" for code, reason, _ in _read(server, network)}


def find_unexplained(server: LiveServer, network: str) -> set[str]:
    """Return the unplanned close reasons of records without a flight recorder trace."""
    rows = _read(server, network)
    reasons = {reason for _, reason, flight in rows if flight in (None, "[]")}
    return reasons - PLANNED_ENDS


def _read(server: LiveServer, network: str) -> list[tuple[Any, ...]]:
    query = (
        "select distinct close_code, reason, flight from connections_connection"
        " where address like ?"
    )
    with contextlib.closing(sqlite3.connect(server.folder / "db.sqlite3")) as database:
        return database.execute(query, (f"{network}%",)).fetchall()
