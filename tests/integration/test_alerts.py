"""Test that live processes deliver alerts by mail and through Prometheus."""

import asyncio
import contextlib
import json
import sqlite3
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets
import yaml
from websockets.asyncio.client import connect

from connections.testing import LiveServer, Servers, free_port, wait_until
from connections.testing.waiting import scale
from tests.integration.mail_sink import MailSink
from tests.integration.services import find_program

RULES = [
    {"name": "sweeper_silent", "threshold": 3, "clear": 2.5, "for_seconds": 1},
    {"name": "authentication_failures", "threshold": 3, "for_seconds": 0},
]
CONFIG = {
    "node__beat_seconds": 0.1,
    "allow_unshared_limits": "true",
    "alert_recipients": "[duty@example.com]",
    "alerts": json.dumps(RULES),
}


async def fail_to_authenticate(server: LiveServer, times: int) -> None:
    headers = {"Authorization": "Bearer wrong"}
    for _ in range(times):
        url = server.ws_url + "/ws/echo/"
        async with connect(
            url, additional_headers=headers, open_timeout=scale(20)
        ) as connection:
            with contextlib.suppress(websockets.ConnectionClosed):
                await connection.recv()


def read_alerts(server: LiveServer) -> dict[str, str]:
    """Return the state of each alert, by its rule."""
    lines = server.manage("alerts", "--json").splitlines()
    alerts = [json.loads(line) for line in lines]
    return {alert["rule"]: alert["state"] for alert in alerts}


async def test_several_nodes_tell_once_of_a_silent_sweeper(servers: Servers) -> None:
    """A sweeper that starts later also raises and reports its alerts."""
    async with MailSink() as sink:
        options: dict[str, Any] = {
            "config": CONFIG,
            "arguments": ("--no-sweeper",),
            "environment": {"EMAIL_PORT": str(sink.port), "EMAIL_HOST": "127.0.0.1"},
        }
        first, _ = servers.start_pair(**options)
        await wait_until(lambda: sink.messages, 40)
        await fail_to_authenticate(first, 5)
        await asyncio.sleep(1.5)  # Both nodes have looked again since.
        assert sink.subjects == ["FIRING: sweeper_silent"]
        assert sink.messages[0]["to"] == "duty@example.com"

        async def is_resolved() -> bool:
            # The nodes may look so late that one sweep is old by then.
            await asyncio.to_thread(first.manage, "sweep_idle_connections", "--once")
            return "RESOLVED: sweeper_silent" in sink.subjects

        await wait_until(is_resolved, 40)
        found = await asyncio.to_thread(read_alerts, first)
        assert found["authentication_failures"] == "firing"
        assert "FIRING: authentication_failures" in sink.subjects


STEP = "The write of used tokens"


def execute(server: LiveServer, statement: str) -> None:
    """Run a statement on the SQLite file of a server."""
    path = server.folder / "db.sqlite3"
    with contextlib.closing(sqlite3.connect(path, timeout=scale(5))) as database:
        database.execute(statement)
        database.commit()


def read_health(server: LiveServer) -> tuple[int, dict[str, Any]]:
    with urllib.request.urlopen(f"{server.url}/readyz", timeout=scale(10)) as response:
        return response.status, json.load(response)


async def test_an_overdue_step_degrades_its_node_and_raises_an_alert(
    servers: Servers,
) -> None:
    """A trigger of the project makes one part of each beat fail."""
    rules = [{"name": "step_overdue", "for_seconds": 0}]
    server = servers.start(config=CONFIG | {"alerts": json.dumps(rules)})
    token = server.create_token()
    execute(
        server,
        "create trigger planted before update on connections_accesstoken"
        " begin select raise(abort, 'planted'); end",
    )

    async def read_reasons() -> str:
        status, body = await asyncio.to_thread(read_health, server)
        assert status == 200
        return str(body.get("reasons")) if body["status"] == "degraded" else ""

    async with connect(
        server.ws_url + "/ws/echo/",
        additional_headers={"Authorization": f"Bearer {token}"},
        open_timeout=scale(20),
    ) as connection:

        async def is_overdue() -> bool:
            return STEP in await read_reasons()

        async def is_firing() -> bool:
            found = await asyncio.to_thread(read_alerts, server)
            return found.get("step_overdue") == "firing"

        async def is_well() -> bool:
            return not await read_reasons()

        await wait_until(is_overdue, 30)
        await wait_until(is_firing, 30)
        assert f"{STEP} failed" in server.log()
        await connection.send("still served")
        assert await connection.recv() == "still served"
        await asyncio.to_thread(execute, server, "drop trigger planted")
        await wait_until(is_well, 30)


@pytest.fixture
def prometheus(servers: Servers, tmp_path: Path) -> Iterator[tuple[LiveServer, str]]:
    """A server, and the URL of a Prometheus that scrapes it every second."""
    server = servers.start(config=CONFIG)
    (tmp_path / "rules.yml").write_text(server.manage("prometheus_rules"))
    target = f"127.0.0.1:{server.port}"
    job = {"job_name": "orchestra", "static_configs": [{"targets": [target]}]}
    seconds = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    content = {"global": seconds, "rule_files": ["rules.yml"], "scrape_configs": [job]}
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(content))
    address = f"127.0.0.1:{free_port()}"
    with (tmp_path / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                find_program("prometheus"),
                f"--config.file={tmp_path / 'prometheus.yml'}",
                f"--storage.tsdb.path={tmp_path / 'tsdb'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
        )
        yield server, f"http://{address}"
        process.terminate()
        process.wait(scale(30))


async def test_prometheus_scrapes_a_node_and_raises_its_alert(
    prometheus: tuple[LiveServer, str],
) -> None:
    server, url = prometheus

    async def read_firing() -> list[str]:
        def read() -> list[str]:
            with urllib.request.urlopen(
                f"{url}/api/v1/alerts", timeout=scale(5)
            ) as response:
                alerts = json.load(response)["data"]["alerts"]
            return [
                one["labels"]["alertname"] for one in alerts if one["state"] == "firing"
            ]

        try:
            return await asyncio.to_thread(read)
        except OSError:
            return []  # It is not there yet.

    async def is_raised() -> bool:
        # A rate needs a rise between two scrapes of Prometheus.
        await fail_to_authenticate(server, 2)
        return "AuthenticationFailures" in await read_firing()

    await wait_until(is_raised, 60)
    assert "DeadNode" not in await read_firing()
