"""Test manage.py capacity against its own server and a running one."""

import json
import sqlite3
from contextlib import closing

import pytest

from connections.testing import LiveServer, Servers

pytestmark = [pytest.mark.slow, pytest.mark.alone]

SHORT = ("--steps", "20,40", "--seconds", "0.3", "--json")

MANY_PINGS = {
    "echo_endpoint": "true",
    "rate_limit__small_frames_per_second": 1_000_000,
    "rate_limit__burst_small_frames": 1_000_000,
}
"""A server of --url keeps its limits, which a fast machine exceeds."""


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
    server = servers.start(config={**MANY_PINGS, "max_total_connections": 75})
    found = json.loads(server.manage("capacity", *SHORT, "--url", server.ws_url))
    assert [step["connections"] for step in found["steps"]] == [20]
    assert "40 connections" in found["stopped_by"]
    assert found["max_total_connections"] == 20
    assert count_left(server) == 0


def test_a_project_in_production_is_measured(servers: Servers) -> None:
    """It allows no Host but its own, redirects all to TLS, and has no /livez."""
    server = servers.make(
        config={"drain__grace_seconds": 1, "echo_endpoint": "true"},
        environment={
            "DJANGO_SETTINGS_MODULE": "tests.integration.production_settings",
            "http_proxy": "http://127.0.0.1:1",
        },
    )
    found = json.loads(server.manage("capacity", *SHORT))
    assert [step["connections"] for step in found["steps"]] == [20, 40]
    assert found["eviction_ms"] >= 0
    assert count_left(server) == 0


def test_clients_with_one_connection_each_are_enough(servers: Servers) -> None:
    server = servers.make(
        config={
            "drain__grace_seconds": 1,
            "echo_endpoint": "true",
            "max_connections_per_client": 1,
        }
    )
    found = json.loads(server.manage("capacity", *SHORT))
    assert found["stopped_by"] == ""
    assert [step["connections"] for step in found["steps"]] == [20, 40]
    assert found["eviction_ms"] >= 0


def test_a_server_that_evicts_nobody_is_measured(servers: Servers) -> None:
    """Its limit is another than that of the command."""
    server = servers.start(config=MANY_PINGS)
    server.environment["WEBSOCKET__MAX_CONNECTIONS_PER_CLIENT"] = "3"
    found = json.loads(
        server.manage(
            "capacity", *SHORT, "--url", server.ws_url, "--pid", str(server.pid)
        )
    )
    assert [step["connections"] for step in found["steps"]] == [20, 40]
    assert found["steps"][1]["kib_per_connection"] is not None
    assert found["eviction_ms"] is None
    assert "no connection was evicted" in found["no_eviction"]
    assert found["no_drain"] == "the server of --url goes on"
    assert count_left(server) == 0


def test_an_observed_limit_evicts_nobody(servers: Servers) -> None:
    server = servers.make(
        config={
            "drain__grace_seconds": 1,
            "echo_endpoint": "true",
            "enforce__clients": "observe",
        }
    )
    output = server.manage("capacity", "--steps", "10", "--seconds", "0.1")
    assert "No eviction was measured: enforce.clients is observe" in output
    assert "A drain takes" in output


def test_the_close_code_of_a_server_that_admits_nobody_is_said(
    servers: Servers,
) -> None:
    server = servers.start(
        config={
            "echo_endpoint": "true",
            "credential_backends": "[connections.credentials.Sessions]",
        }
    )
    del server.environment["WEBSOCKET__CREDENTIAL_BACKENDS"]
    output = server.manage("capacity", *SHORT, "--url", server.ws_url, is_checked=False)
    assert "failed: closed by the server: 4001 unauthenticated" in output
    assert count_left(server) == 0


def test_a_path_that_is_not_served_is_said(servers: Servers) -> None:
    server = servers.make(config={"drain__grace_seconds": 1})
    output = server.manage("capacity", *SHORT, "--path", "/ws/none/", is_checked=False)
    assert "the measurement failed" in output
    assert "404" in output
