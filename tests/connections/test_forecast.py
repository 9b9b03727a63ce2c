"""Test the forecast of limits, and the command that shows it."""

import gc
import io
import json
import re
import weakref
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from connections.forecast import records
from connections.forecast.records import RefusedRecord
from connections.forecast.simulation import RETRY_SECONDS, ForecastLimits, Simulation
from connections.models import Connection, RefusedHandshake
from connections.testing.communicators import make_config
from tests.connections.rows import make_connection_row

pytestmark = pytest.mark.django_db


def open_one(
    name: str, minutes_ago: float, lasted: float | None, **values: Any
) -> None:
    """Record a connection that opened so many minutes ago and lasted for others."""
    opened_at = timezone.now() - timedelta(minutes=minutes_ago)
    closed_at = None if lasted is None else opened_at + timedelta(minutes=lasted)
    defaults: dict[str, Any] = {
        "longest_silence_seconds": 0,
        "silent_from": opened_at,
        "over_rate": 0,
        "last_activity_at": closed_at or timezone.now(),
        "reason": "" if closed_at is None else "closed",
    }
    make_connection_row(
        name, opened_at=opened_at, closed_at=closed_at, **(defaults | values)
    )


def run(*arguments: str) -> Any:
    output = io.StringIO()
    call_command("limits", "forecast", "--json", *arguments, stdout=output)
    return json.loads(output.getvalue())


def test_other_limits_than_those_in_force_are_held_against_the_record() -> None:
    for index in range(4):
        open_one(f"c{index}", 60 - index, 30)
    open_one("other", 50, 30, client_id="bob")
    assert run()["affected_connections"] == 0
    found = run("--max-connections-per-client", "2")
    assert found["by_limit"] == {"clients": 2, "total": 0, "idle": 0}
    assert found["affected"]["evicted"] == 2
    assert (found["connections"], found["clients"]) == (5, 2)
    [top] = found["top_clients"]
    assert top == {"client_id": "alice", "connections": 2, "error": 0}
    assert sum(one["connections"] for one in found["by_hour"]) == 2
    found = run("--max-connections-per-client", "2", "--on-client-limit", "refuse")
    assert found["affected"]["refused_for_client"] == 2
    assert run("--max-total-connections", "3")["by_limit"]["total"] == 2


def test_connections_one_after_another_affect_nobody() -> None:
    for index in range(4):
        open_one(f"c{index}", 60 - 10 * index, 9)
    assert run("--max-connections-per-client", "1")["affected_connections"] == 0


def test_a_silence_is_held_to_the_timeout_of_its_connection() -> None:
    opened_at = timezone.now() - timedelta(minutes=60)
    silence = {"longest_silence_seconds": 200, "silent_from": opened_at}
    open_one("usual", 60, 30, **silence)
    open_one("own", 60, 30, idle_timeout_seconds=500, **silence)
    open_one("never", 60, 30, idle_timeout_seconds=0, **silence)
    assert run("--idle-timeout-seconds", "300")["by_limit"]["idle"] == 0
    assert run("--idle-timeout-seconds", "200")["by_limit"]["idle"] == 1
    assert run("--idle-timeout-seconds", "0")["by_limit"]["idle"] == 0


def test_an_idle_end_makes_room() -> None:
    opened_at = timezone.now() - timedelta(minutes=60)
    open_one("idle", 60, 30, longest_silence_seconds=600, silent_from=opened_at)
    open_one("next", 50, 30)
    limits = ("--max-connections-per-client", "1", "--idle-timeout-seconds")
    assert run(*limits, "300")["by_limit"] == {"clients": 0, "total": 0, "idle": 1}
    assert run(*limits, "0")["by_limit"] == {"clients": 1, "total": 0, "idle": 0}


def test_a_connection_that_is_open_for_long_counts() -> None:
    long_ago = 3 * 24 * 60
    open_one("old", long_ago, None)
    open_one("new", 60, 30)
    found = run("--days", "1", "--max-connections-per-client", "1")
    assert (found["connections"], found["by_limit"]["clients"]) == (2, 1)


def test_what_happened_before_the_period_is_not_counted() -> None:
    open_one("first", 20 * 60, None)
    open_one("second", 19 * 60, None)
    found = run("--days", "0.5", "--max-connections-per-client", "1")
    assert found["affected_connections"] == 0
    open_one("third", 60, None)
    found = run("--days", "0.5", "--max-connections-per-client", "1")
    assert found["affected_connections"] == 1


def test_a_client_that_returned_with_its_id_is_not_at_its_limit() -> None:
    open_one("old", 60, 10.01, reason="replaced")
    open_one("new", 50, 10)
    assert run("--max-connections-per-client", "1")["affected_connections"] == 0


def test_what_is_not_known_is_said() -> None:
    open_one("evicted", 60, 30, reason="evicted")
    open_one("old", 60, 30, over_rate=None, longest_silence_seconds=None)
    open_one("loud", 60, 30, over_rate=7)
    found = run()
    notes = "\n".join(found["notes"])
    assert "1 connection of an older release" in notes
    assert "(1 evicted)" in notes
    assert "Rates are known for rate_limit as it was in force" in notes
    assert found["over_rate"] == {"connections": 1, "messages": 7}


def test_rows_are_read_in_chunks_along_the_index(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Equal moments at the border of two chunks are read once."""
    opened_at = timezone.now() - timedelta(hours=1)
    Connection.objects.bulk_create(
        Connection(
            connection_id=f"{index:05}",
            client_id=f"c{index}",
            node_id="n1",
            opened_at=opened_at,
            last_activity_at=opened_at,
            closed_at=opened_at + timedelta(minutes=1),
        )
        for index in range(2 * records.ROWS_PER_QUERY + 7)
    )
    with CaptureQueriesContext(
        connection,
    ) as queries:
        found = run()
    assert found["connections"] == 2 * records.ROWS_PER_QUERY + 7
    selects = [one for one in queries.captured_queries if "opened_at" in one["sql"]]
    assert len(selects) == 4


def refuse(
    minutes_ago: float,
    client_id: str = "bob",
    count: int = 1,
    now: datetime | None = None,
) -> None:
    moment = (now or timezone.now()) - timedelta(minutes=minutes_ago)
    RefusedHandshake.objects.create(
        at=moment, client_id=client_id, route="a/", reason="pool_full", count=count
    )


def test_refused_handshakes_are_refused_by_the_same_limits() -> None:
    open_one("c0", 60, 30)
    refuse(50, count=3)
    refuse(49, client_id="", count=4)
    refuse(20)  # The only connection has ended: a limit of a client, or an old pool.
    found = run("--max-total-connections", "1")
    assert (found["connections"], found["refused_handshakes"]) == (1, 8)
    assert found["affected"]["refused_for_total"] == 7
    [top] = found["top_clients"]
    assert (top["client_id"], top["connections"]) == ("bob", 3)
    assert any(
        "1 refused handshake would have been admitted" in one for one in found["notes"]
    )
    assert run("--days", "0.01")["refused_handshakes"] == 0


def test_an_admitted_handshake_holds_a_slot_and_its_retries_none() -> None:
    for index in range(2):
        open_one(f"c{index}", 60, 30, client_id=f"client-{index}")
    now = timezone.now()
    for seconds in range(0, 60, 12):
        refuse(50 - seconds / 60, now=now)
    refuse(48, client_id="carol")
    found = run("--max-total-connections", "3")
    assert found["by_limit"] == {"clients": 0, "total": 1, "idle": 0}
    [top] = found["top_clients"]
    assert top["client_id"] == "carol"
    assert run("--max-total-connections", "4")["affected_connections"] == 0


class ClientId(str):
    """An id whose end a test can see."""


def test_an_admitted_client_is_forgotten_when_it_would_retry_no_more() -> None:
    """Memory does not grow with the clients of an attack that changes its ids."""
    limits = ForecastLimits.configured(make_config())
    simulation = Simulation(limits, beat_seconds=5, start=1e9, end=2e9)
    client_id = ClientId("alice")
    kept = weakref.ref(client_id)
    for number, name in enumerate([client_id, "bob", "carol"]):
        opened_at = float(number * (RETRY_SECONDS + 1))
        refused = RefusedRecord(
            row_id=number, client_id=name, route="a/", opened_at=opened_at, count=1
        )
        simulation.add_refused(refused)
    del client_id, name, refused
    gc.collect()
    assert kept() is None


def test_refused_handshakes_are_read_in_chunks() -> None:
    """Equal moments at the border of two chunks are read once."""
    moment = timezone.now() - timedelta(hours=1)
    count = records.ROWS_PER_QUERY + 7
    RefusedHandshake.objects.bulk_create(
        RefusedHandshake(at=moment, client_id=f"c{index}", reason="pool_full")
        for index in range(count)
    )
    assert run()["refused_handshakes"] == count


def test_the_output_for_people(settings: Any) -> None:
    settings.WEBSOCKET = make_config(max_connections_per_client=1)
    for index in range(3):
        open_one(f"c{index}", 60 - index, 30)
    output = io.StringIO()
    call_command("limits", "forecast", stdout=output)
    text = output.getvalue()
    assert "2 connections of 1 client would have been affected" in text
    assert "evicted for a newer connection of their client" in text
    assert "2 alice" in text
    moment = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    assert re.match(f"{moment} to {moment}: ", text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--days", "0"], "--days 0.0: expected a number from 0.01 to 366"),
        (["--max-connections-per-client", "0"], "a whole number from 1 to 1000000"),
        (["--idle-timeout-seconds", "-1"], "a number from 0 to 604800"),
        (["--top", "5000"], "--top 5000: expected a whole number from 0 to 1000"),
        (["--days", "many"], "invalid float value: 'many'"),
        (["--on-client-limit", "drop"], "invalid choice: 'drop'"),
    ],
)
def test_bad_input_is_named(arguments: list[str], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        call_command("limits", "forecast", *arguments)
