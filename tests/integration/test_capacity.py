"""Test manage.py capacity against its own server and a running one."""

import json
import sqlite3
from contextlib import closing

import pytest

from connections.testing import LiveServer, Servers

pytestmark = [pytest.mark.slow, pytest.mark.alone]

SHORT = ("--steps", "20,40", "--seconds", "0.3", "--json")


def count_left(server: LiveServer) -> int:
    """Return the number of tokens that the command left behind."""
    query = "select count(*) from connections_accesstoken where client_id like 'cap%'"
    with closing(sqlite3.connect(server.folder / "db.sqlite3")) as database:
        count: int = database.execute(query).fetchone()[0]
        return count


def test_it_measures_a_server_of_its_own_and_leaves_nothing(servers: Servers) -> None:
    server = servers.make(config={"drain__grace_seconds": 1, "echo_endpoint": "true"})
    found = json.loads(server.manage("capacity", *SHORT, "--message", "hello"))
    first, last = found["steps"]
    assert (first["connections"], last["connections"]) == (20, 40)
    assert last["round_trips_per_second"] > 0
    assert last["kib_per_connection"] is not None
    assert found["eviction_ms"] >= 0
    assert found["drain_seconds"] > 0
    assert 1 <= found["max_total_connections"] <= 120
    assert found["stopped_by"] == ""
    assert count_left(server) == 0


def test_a_running_server_that_is_full_is_said(servers: Servers) -> None:
    server = servers.start(
        config={"max_total_connections": 75, "echo_endpoint": "true"}
    )
    found = json.loads(server.manage("capacity", *SHORT, "--url", server.ws_url))
    assert [step["connections"] for step in found["steps"]] == [20]
    assert "40 connections" in found["stopped_by"]
    assert found["max_total_connections"] == 20
    assert count_left(server) == 0


def test_a_path_that_is_not_served_is_said(servers: Servers) -> None:
    server = servers.make(config={"drain__grace_seconds": 1})
    output = server.manage("capacity", *SHORT, "--path", "/ws/none/", is_checked=False)
    assert "the measurement failed" in output
    assert "404" in output
