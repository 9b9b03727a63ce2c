"""Test the estimate of capacity, and the options of the command."""

import dataclasses
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from connections.capacity.load.generator import Answer, Load, LoadFailed
from connections.capacity.probe import (
    Bounds,
    Ramp,
    Step,
    attempt,
    count_clients,
    estimate_capacity,
    find_no_eviction,
)
from connections.capacity.target import choose_host, measure_drain, require_tokens
from connections.config.loader import get_config
from connections.credentials import AccessTokens
from connections.models import AccessToken
from tests.connections.rows import make_node_row

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
        (["--pid", "4194304", "--url", "ws://x"], "--pid 4194304: it cannot be meas"),
    ],
)
def test_bad_arguments_are_named(arguments: list[str], problem: str) -> None:
    with pytest.raises(CommandError, match=problem):
        call_command("capacity", *arguments)


@pytest.mark.django_db
def test_no_slots_of_serving_nodes_are_taken(settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    make_node_row()
    with pytest.raises(CommandError, match="nodes that serve with this database: 1"):
        call_command("capacity", "--steps", "1")


@pytest.mark.django_db
def test_a_port_that_is_none_is_named() -> None:
    with pytest.raises(CommandError, match=r"--url ws://example\.com:99999: Port out"):
        call_command("capacity", "--url", "ws://example.com:99999")


@pytest.mark.django_db
def test_tls_is_refused() -> None:
    with pytest.raises(CommandError, match="TLS is not supported"):
        call_command("capacity", "--url", "wss://example.com")


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 1000])
def test_no_client_exceeds_its_limit(limit: int) -> None:
    """50 connections exchange messages besides; one client only evicts."""
    clients = count_clients([20, 40], limit) - 1
    assert clients * limit >= 40 + 50


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({}, ""),
        ({"max_connections_per_client": 300}, ""),
        (
            {"max_connections_per_client": 301},
            "max_connections_per_client is over 300",
        ),
        ({"on_client_limit": "refuse"}, "on_client_limit is refuse"),
        ({"enforce": {"clients": "observe"}}, "enforce.clients is observe"),
    ],
)
def test_an_eviction_is_measured_only_where_clients_are_evicted(
    settings: Any, config: dict[str, Any], why: str
) -> None:
    settings.WEBSOCKET = config
    assert find_no_eviction(get_config()) == why


def test_a_figure_that_cannot_be_measured_leaves_the_others() -> None:
    def fail() -> float:
        raise LoadFailed("evict: nobody")

    assert attempt(lambda: 2.5) == (2.5, "")
    assert attempt(fail) == (None, "evict: nobody")


@pytest.mark.parametrize(
    ("allowed", "address", "host"),
    [
        (["*"], "127.0.0.1", "127.0.0.1:80"),
        ([], "127.0.0.1", "127.0.0.1:80"),
        (["example.com", "127.0.0.1"], "127.0.0.1", "127.0.0.1:80"),
        (["example.com", "example.org"], "127.0.0.1", "example.com"),
        ([".example.com"], "127.0.0.1", "example.com"),
        ([".example.com"], "ws.example.com", "ws.example.com:80"),
    ],
)
def test_handshakes_name_a_host_that_is_allowed(
    settings: Any, allowed: list[str], address: str, host: str
) -> None:
    settings.ALLOWED_HOSTS = allowed
    assert choose_host(address, 80) == host


class OwnTokens(AccessTokens):
    """The access tokens of a project with a rule of its own."""


@pytest.mark.django_db
def test_the_credential_backend_that_lacks_is_named(settings: Any) -> None:
    settings.WEBSOCKET = {"credential_backends": ["connections.credentials.Sessions"]}
    listed = "connections.credentials.AccessTokens, connections.credentials.Sessions"
    problem = rf"has no {listed[:36]}, .* WEBSOCKET__CREDENTIAL_BACKENDS='\[{listed}\]'"
    with pytest.raises(CommandError, match=problem):
        call_command("capacity", "--url", "ws://127.0.0.1:1")
    assert not AccessToken.objects.exists()


@pytest.mark.parametrize(
    "config",
    [
        {"credential_backends": [f"{__name__}.OwnTokens"]},
        {"credential_backends": ["connections.credentials.Tickets"], "anonymous": True},
    ],
)
def test_other_ways_to_admit_the_tokens_are_known(
    settings: Any, config: dict[str, Any]
) -> None:
    settings.WEBSOCKET = config
    require_tokens(get_config())


@pytest.mark.django_db
def test_a_server_that_is_away_leaves_no_tokens() -> None:
    with pytest.raises(CommandError, match="the measurement failed: open: Connection"):
        call_command("capacity", "--url", "ws://127.0.0.1:1", "--steps", "1")
    assert not AccessToken.objects.exists()


def test_a_generator_that_has_ended_is_named_in_each_step() -> None:
    with Load(1, module="tests.connections.no_such_module") as load:
        for _ in range(2):
            with pytest.raises(LoadFailed, match="generator has exited, status 1"):
                load.do("rest", seconds=0.1)


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """A port whose server lets three handshakes wait, then refuses them together."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def refuse() -> None:
            for _ in range(3):
                waiting.append(listening.accept()[0])
            for one in waiting:
                one.recv(65_536)
            for one in waiting:
                # The generator may end all of them at the first answer.
                with suppress(ConnectionError):
                    one.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")

        waiting: list[socket.socket] = []
        serving = threading.Thread(target=refuse)
        serving.start()
        yield listening.getsockname()[1]
        serving.join()
        for one in waiting:
            one.close()


def test_a_refused_step_does_not_end_the_generator(refusing_port: int) -> None:
    with Load(refusing_port) as load:
        with pytest.raises(LoadFailed, match="403 Forbidden"):
            load.do("open", group="all", count=3)
        for _ in range(2):
            assert load.do("rest", seconds=0.1) == {"open": 0}


class ScriptedLoad(Load):
    """A generator of no process; it ends the server before its `fatal` rest."""

    def __init__(self, server: "subprocess.Popen[bytes]", fatal: int) -> None:
        self._server = server
        self._left = fatal

    def do(self, step: str, **options: Any) -> Answer:
        if step == "rest":
            self._left -= 1
            if not self._left:
                self._server.kill()
                self._server.wait()
        times = {"p50_ms": 1, "p99_ms": 1, "round_trips": 1, "seconds": 1}
        return {"open": 1000, "why_closed": "", **times}


def run_ramp(fatal: int, counts: Sequence[int]) -> tuple[int, str]:
    """Return how many steps a ramp did, and why it stopped."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as server:
        ramp = Ramp(
            ScriptedLoad(server, fatal),
            headers=[""],
            pid=server.pid,
            message="",
            seconds=0.1,
            most_p99_ms=10,
        )
        try:
            return len(list(ramp.run(counts))), ramp.stopped_by
        finally:
            server.kill()


def test_a_server_that_ends_stops_the_ramp() -> None:
    done, why = run_ramp(3, [1, 2])
    assert done == 1
    assert why.startswith("2 connections: process ")
    with pytest.raises(LoadFailed, match=r"process \d+ cannot be read"):
        run_ramp(1, [1, 2])


def test_a_server_that_has_ended_drains_no_more() -> None:
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as server:
        server.wait()
        load = ScriptedLoad(server, 0)
        with pytest.raises(LoadFailed, match="the server has exited with status 3"):
            measure_drain(load, server)
