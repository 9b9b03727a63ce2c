"""Test the content of /metrics and the access to it."""

import asyncio
import os
import subprocess
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.test import AsyncClient, RequestFactory
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families

from connections.node.current import get_node
from connections.node.node import Node
from connections.testing import wait_until
from connections.testing.communicators import connect_to
from connections.testing.waiting import scale
from connections.views.health import metrics
from tests.connections.conversations import Echo, JsonEcho
from tests.integration.services import find_program
from tests.project import ROOT

LITERAL_NAMES = (
    "active_websocket_connections",
    "websocket_connection_duration",
    "websocket_message_rate",
    "websocket_error_rate",
)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """The node of this event loop, which views use."""
    yield get_node()


async def ask(address: str = "127.0.0.1", **headers: str) -> Any:
    request = RequestFactory().get("/metrics", REMOTE_ADDR=address, headers=headers)
    return await metrics(request)


async def scrape() -> dict[tuple[str, ...], float]:
    """Return the samples by name and label values."""
    text = (await ask()).content.decode()
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_specified_metrics_exist_from_the_start(
    node: Node,
) -> None:
    found = {name for name, *_ in await scrape()}
    for name in LITERAL_NAMES:
        assert name in found or f"{name}_bucket" in found


async def test_metrics_count_a_connection_during_and_after_it(node: Node) -> None:
    communicator = connect_to(Echo, node, route="ws/test/")
    await communicator.connect()
    for text in ("hello", "fail"):
        await communicator.send_to(text_data=text)
    await communicator.receive_output()

    async def are_handled() -> bool:
        return (await scrape())["websocket_messages_total", "in", "ws/test/"] == 2

    await wait_until(are_handled)
    during = await scrape()
    assert during["active_websocket_connections", "ws/test/"] == 1
    assert during["websocket_message_bytes_total", "out", "ws/test/"] == 5
    assert during["websocket_error_rate",] == 0.5
    assert during["websocket_message_rate", "in"] > 0
    assert during["websocket_pool_slots",] == 1
    assert during["websocket_consumers_alive",] == 1
    size = "websocket_message_size_bytes"
    assert during[f"{size}_bucket", "in", "64", "ws/test/"] == 2
    assert during[f"{size}_sum", "in", "ws/test/"] == 9
    assert during[f"{size}_count", "out", "ws/test/"] == 1
    await communicator.disconnect()
    after = await scrape()
    assert after["active_websocket_connections", "ws/test/"] == 0
    assert after["websocket_messages_total", "in", "ws/test/"] == 2
    assert after["websocket_disconnects_total", "closed"] == 1
    assert after["websocket_errors_total", "internal"] == 1
    assert after["websocket_connections_total", "accepted", "ws/test/"] == 1
    assert after["websocket_connection_duration_count",] == 1
    assert after["websocket_connection_duration_seconds_bucket", "86400"] == 1
    assert after["websocket_handler_duration_seconds_count",] == 2
    assert after["websocket_consumers_alive",] == 0


async def test_messages_are_counted_by_size(node: Node) -> None:
    """Counts of closed connections stay; a route without any has no series."""
    communicator = connect_to(Echo, node, route="ws/test/")
    await communicator.connect()
    for size in (1, 2, 64, 65, 256, 257, 5000):
        await communicator.send_to(text_data="x" * size)
        await communicator.receive_output()
    await communicator.disconnect()
    found = await scrape()
    name = "websocket_message_size_bytes_bucket"
    counted = [
        found[name, direction, edge, "ws/test/"]
        for direction in ("in", "out")
        for edge in ("64", "256", "1024", "4096", "16384", "+Inf")
    ]
    assert counted == [3, 5, 6, 6, 7, 7] * 2
    assert not [key for key in found if key[0] == name and "unknown" in key]


async def test_early_refusals_are_outcomes(node: Node) -> None:
    node.counters.refused_early = {"rate": 7}
    node.counters.record_outcome("", "origin")
    found = await scrape()
    assert found["websocket_connections_total", "rate", "unknown"] == 7
    assert found["websocket_connections_total", "origin", "unknown"] == 1


async def test_labels_are_bounded_whatever_clients_do(node: Node) -> None:
    """A consumer may even invent kinds and reasons."""
    for number in range(200):
        node.counters.ends.add(f"made up {number}")
        node.counters.errors.add(f"made up {number}")
        node.counters.record_outcome(f"route {number}", f"outcome {number}")
    communicator = connect_to(JsonEcho, node, path="/ws/test/secret/", route="r")
    await communicator.connect()
    text = (await ask()).content.decode()
    assert text.count("\n") < 2000
    assert "secret" not in text
    assert "alice" not in text
    await communicator.disconnect()


async def test_promtool_accepts_the_metrics(node: Node) -> None:
    promtool = find_program("promtool")
    process = await asyncio.create_subprocess_exec(
        promtool, "check", "metrics", stdin=PIPE, stdout=PIPE, stderr=STDOUT
    )
    complaints, _ = await process.communicate((await ask()).content)
    assert (process.returncode, complaints) == (0, b"")


def test_other_threads_export_no_node_metrics() -> None:
    assert b"active_websocket_connections" not in generate_latest(REGISTRY)


# Access


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1"])
async def test_an_allowed_address_may_read_metrics(node: Node, address: str) -> None:
    assert (await ask(address)).status_code == 200


async def test_other_addresses_are_refused(node: Node) -> None:
    assert (await ask("192.0.2.7")).status_code == 403


async def test_the_token_permits_other_addresses(node: Node, settings: Any) -> None:
    settings.METRICS_TOKEN = "a long secret"
    asked = await ask("192.0.2.7", Authorization="bearer a long secret")
    assert asked.status_code == 200


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer another", "Basic a long secret", "Bearer \xe9"]
)
async def test_a_wrong_token_is_answered_with_401(
    node: Node, settings: Any, given: str
) -> None:
    settings.METRICS_TOKEN = "a long secret"
    asked = await ask("192.0.2.7", Authorization=given)
    assert (asked.status_code, asked["WWW-Authenticate"]) == (401, "Bearer")


async def test_an_empty_token_permits_no_request(node: Node, settings: Any) -> None:
    settings.METRICS_TOKEN = ""
    assert (await ask("192.0.2.7", Authorization="Bearer ")).status_code == 403


@pytest.mark.parametrize(
    "header", ["X-Forwarded-For", "X-Forwarded-Proto", "Forwarded", "Via", "X-Real-IP"]
)
async def test_requests_of_an_untrusted_proxy_are_refused(
    node: Node, header: str
) -> None:
    """A proxy on this machine would otherwise publish the metrics."""
    assert (await ask(**{header: "127.0.0.1"})).status_code == 403


@pytest.mark.parametrize(("client", "status"), [("10.1.2.3", 200), ("192.0.2.7", 403)])
async def test_a_trusted_proxy_names_the_client(
    settings: Any, client: str, status: int
) -> None:
    settings.WEBSOCKET = {
        "trusted_proxies": ["127.0.0.1"],
        "metrics": {"allowed_addresses": ["10.0.0.0/8"]},
    }
    asked = await ask(**{"X-Forwarded-For": client, "Via": "1.1 proxy"})
    assert asked.status_code == status


@pytest.mark.parametrize("claimed", ["127.0.0.1", "::1", "127.9.9.9", "localhost"])
async def test_a_trusted_proxy_does_not_speak_for_this_host(
    settings: Any, claimed: str
) -> None:
    """A proxy may pass on what a client sent."""
    settings.WEBSOCKET = {"trusted_proxies": ["127.0.0.1"]}
    asked = await ask(**{"X-Forwarded-For": claimed, "Via": "1.1 proxy"})
    assert asked.status_code == 403


async def test_a_foreign_host_is_refused(node: Node, settings: Any) -> None:
    """A page of an attacker whose name points to this host must read nothing."""
    settings.ALLOWED_HOSTS = ["testserver"]
    client = AsyncClient()
    assert (await client.get("/metrics")).status_code == 200
    foreign = await client.get("/metrics", headers={"host": "elsewhere.example"})
    assert foreign.status_code == 400


async def test_post_is_not_allowed(node: Node) -> None:
    assert (await metrics(RequestFactory().post("/metrics"))).status_code == 405


SCRAPE = """
import asyncio, sys
if sys.argv[1] == "without":
    sys.modules["django_prometheus"] = None
import django
django.setup()
from django.apps import apps
from django.test import RequestFactory
from prometheus_client import Counter
from connections.views.health import metrics

async def main():
    Counter("of_the_project", "Counted by the project itself").inc()
    response = await metrics(RequestFactory().get("/metrics"))
    print(response["Content-Type"], apps.is_installed("django_prometheus"))
    print(response.content.decode())

asyncio.run(main())
"""


def scrape_process(folder: Path, *arguments: str, **environment: str) -> str:
    """Return what a new process of the project exports, below a line about it."""
    done = subprocess.run(
        [sys.executable, "-c", SCRAPE, *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "orchestra.settings",
            "ORCHESTRA_VAR": str(folder),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=scale(60),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_metrics_need_no_django_prometheus(tmp_path: Path) -> None:
    exported = scrape_process(tmp_path, "without")
    assert exported.startswith("text/plain; version=")
    assert "False" in exported.splitlines()[0]
    assert "active_websocket_connections" in exported


def test_django_prometheus_adds_its_metrics_where_it_is_installed(
    tmp_path: Path,
) -> None:
    pytest.importorskip("django_prometheus", reason="it refuses this Django")
    exported = scrape_process(tmp_path, "with")
    assert "True" in exported.splitlines()[0]
    assert "django_migrations_" in exported
    assert "active_websocket_connections" in exported


def test_multiprocess_mode_adds_up_processes_and_keeps_the_node(tmp_path: Path) -> None:
    shared = tmp_path / "metrics"
    shared.mkdir()
    variables = {"PROMETHEUS_MULTIPROC_DIR": str(shared)}
    scrape_process(tmp_path, "with", **variables)
    exported = scrape_process(tmp_path, "with", **variables)
    assert "of_the_project_total 2.0" in exported
    assert "active_websocket_connections" in exported


async def test_another_thread_gets_the_series_from_the_loop_once(node: Node) -> None:
    """The view of django-prometheus is synchronous; an exporter has its own thread."""

    async def export() -> str:
        text = (await asyncio.to_thread(generate_latest, REGISTRY)).decode()
        # A loop that stands still for seconds leaves an export without them.
        return text if "active_websocket_connections" in text else ""

    text = await wait_until(export)
    assert text.count("# TYPE active_websocket_connections gauge") == 1
    assert text.count("\nwebsocket_pool_slots ") == 1


async def test_apps_that_are_made_ready_again_export_once(node: Node) -> None:
    """As by a test that overrides INSTALLED_APPS."""
    for _ in range(2):
        apps.get_app_config("connections").ready()
    text = (await ask()).content.decode()
    assert text.count("# TYPE active_websocket_connections gauge") == 1


def test_without_a_node_another_thread_gets_no_series() -> None:
    assert b"active_websocket_connections" not in generate_latest(REGISTRY)


async def test_openmetrics_is_given_to_those_who_ask(node: Node) -> None:
    response = await ask(accept="application/openmetrics-text; version=1.0.0")
    assert response["Content-Type"].startswith("application/openmetrics-text")
    families = parse_openmetrics(response.content.decode())  # type: ignore[no-untyped-call]
    names = {family.name for family in families}
    assert "websocket_handler_duration_seconds" in names
    assert (await ask())["Content-Type"].startswith("text/plain")
