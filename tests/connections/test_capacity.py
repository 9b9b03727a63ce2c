"""Test the estimate of capacity, and the options of the command."""

import dataclasses

import pytest
from django.core.management import CommandError, call_command

from connections.capacity.probe import Bounds, Step, estimate_capacity

STEP = Step(
    connections=1000,
    connects_per_second=500,
    connect_p99_ms=20,
    round_trips_per_second=20_000,
    round_trip_p50_ms=2,
    round_trip_p99_ms=5,
    round_trip_cpu_us=50,
    idle_cpu_percent=1,
    kib_per_connection=20,
)


def bounds(step: Step = STEP, messages_per_second: float = 1, **more: int) -> Bounds:
    options = {"available_kib": 180_000, "max_files": 100_000} | more
    return estimate_capacity([step], messages_per_second=messages_per_second, **options)


def test_memory_bounds_the_connections() -> None:
    """Four fifths of the free memory, including that of measured connections."""
    assert bounds().memory == 8_000


def test_cpu_bounds_the_connections_by_messages_and_idle_cost() -> None:
    """Each connection needs 60 us per second, of 0.6 of a core."""
    assert bounds().cpu == 10_000
    assert bounds(messages_per_second=0).cpu == 60_000


def test_open_files_bound_the_connections() -> None:
    assert bounds(max_files=1_300).files == 1_000


def test_the_lowest_bound_counts_up_to_three_times_the_opened() -> None:
    assert bounds().max_total_connections == 3_000
    assert bounds().decided_by.startswith("3 x the connections that were open")
    assert bounds(available_kib=10_000).max_total_connections == 1_200
    assert bounds(available_kib=10_000).decided_by == "memory"


def test_without_the_process_only_opened_connections_count() -> None:
    unseen = dataclasses.replace(
        STEP, round_trip_cpu_us=None, idle_cpu_percent=None, kib_per_connection=None
    )
    found = bounds(unseen)
    assert (found.memory, found.cpu) == (None, None)
    assert found.max_total_connections == 1_000
    assert "--pid" in found.decided_by


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--steps", "ten"], "--steps ten: expected numbers"),
        (["--steps", "10,5"], "expected increasing numbers"),
        (["--steps", "100000000"], "may open only"),
        (["--seconds", "0"], "--seconds 0.0: expected a number from 0.1"),
        (["--max-p99-ms", "-1"], "--max-p99-ms -1.0: expected a number from 0.1"),
        (["--pid", "1"], "--pid needs --url"),
    ],
)
def test_bad_arguments_are_named(arguments: list[str], problem: str) -> None:
    with pytest.raises(CommandError, match=problem):
        call_command("capacity", *arguments)


@pytest.mark.django_db
def test_tls_is_refused() -> None:
    with pytest.raises(CommandError, match="TLS is not supported"):
        call_command("capacity", "--url", "wss://example.com")
