"""What is reckoned from what was measured, and what the command refuses."""

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


def test_memory_bounds_by_what_a_connection_takes() -> None:
    """Four fifths of what is free, and of what the measured ones give back."""
    assert bounds().memory == 8_000


def test_cpu_bounds_by_what_is_said_and_by_what_silence_costs() -> None:
    """60 us of each connection's second, of six tenths of a core."""
    assert bounds().cpu == 10_000
    assert bounds(messages_per_second=0).cpu == 60_000


def test_files_bound_with_some_to_spare() -> None:
    assert bounds(max_files=1_300).files == 1_000


def test_the_least_decides_and_reckoning_has_an_end() -> None:
    assert bounds().max_total_connections == 3_000
    assert bounds(available_kib=10_000).max_total_connections == 1_200


def test_where_the_process_is_not_seen_only_what_was_opened_counts() -> None:
    unseen = dataclasses.replace(
        STEP, round_trip_cpu_us=None, idle_cpu_percent=None, kib_per_connection=None
    )
    found = bounds(unseen)
    assert (found.memory, found.cpu) == (None, None)
    assert found.max_total_connections == 1_000


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--steps", "ten"], "--steps ten: expected numbers"),
        (["--steps", "10,5"], "expected increasing numbers"),
        (["--steps", "100000000"], "may open only"),
        (["--seconds", "0"], "--seconds must be more than 0"),
        (["--max-p99-ms", "-1"], "--max-p99-ms must be more than 0"),
        (["--pid", "1"], "--pid needs --url"),
    ],
)
def test_bad_arguments_are_named(arguments: list[str], problem: str) -> None:
    with pytest.raises(CommandError, match=problem):
        call_command("capacity", *arguments)


@pytest.mark.django_db
def test_only_plain_websockets_are_measured() -> None:
    with pytest.raises(CommandError, match="TLS is not supported"):
        call_command("capacity", "--url", "wss://example.com")
