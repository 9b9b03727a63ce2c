"""Read what a server recorded: close reasons, metrics and its log."""

import contextlib
import re
import sqlite3
import urllib.request
from typing import Any

from connections.hub.flight_recorder import PLANNED_ENDS
from connections.testing import LiveServer
from connections.testing.waiting import scale

_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} UTC [A-Z]+ \w|    ")
"""Matches the start of a log line, or of a line of a traceback."""


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


def find_odd_lines(log: str) -> list[str]:
    """Return the lines that no logging call began."""
    return [line for line in log.splitlines() if not _LINE.match(line)]


def read_metrics(server: LiveServer) -> str:
    """Return the Prometheus metrics of a server."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=scale(30)) as response:
        text: str = response.read().decode()
        return text


def _read(server: LiveServer, network: str) -> list[tuple[Any, ...]]:
    query = (
        "select distinct close_code, reason, flight from connections_connection"
        " where address like ?"
    )
    with contextlib.closing(sqlite3.connect(server.folder / "db.sqlite3")) as database:
        return database.execute(query, (f"{network}%",)).fetchall()
