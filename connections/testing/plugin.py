"""
Fixtures for pytest; in the conftest.py of a project's root:

    pytest_plugins = ["connections.testing.plugin"]

It builds on pytest-django. `live_server` replaces its fixture of that name, which
serves no WebSocket; the server shares the test database in the same way.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connections

from connections.testing.databases import find_test_databases
from connections.testing.processes import LiveServer
from connections.testing.raw_client import RawClient
from connections.testing.servers import Servers

_SHOWN_LINES = 60


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "live_server(**options): how `live_server` is started, as LiveServer takes it: "
        'config={"idle_timeout_seconds": 1}, command="daphne" ...',
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Show the servers' logs in the report of a failed test."""
    report: pytest.TestReport = yield
    if report.failed:
        for server in _find_servers(getattr(item, "funcargs", {}).values()):
            report.sections.append((f"Log of {server}", server.log_tail(_SHOWN_LINES)))
    return report


def _find_servers(found: Iterable[object]) -> list[LiveServer]:
    """Return the servers among a test's fixtures, each once."""
    servers: dict[int, LiveServer] = {}
    for one in found:
        for server in one.made if isinstance(one, Servers) else [one]:
            if isinstance(server, LiveServer):
                servers[server.port] = server
    return list(servers.values())


class _SharingServers(Servers):
    """Starts servers on the databases of this test run."""

    def build(
        self,
        folder: Path,
        *,
        environment: dict[str, str] | None = None,
        **options: Any,
    ) -> LiveServer:
        databases = find_test_databases()
        served = {
            "DJANGO_SETTINGS_MODULE": "connections.testing.served_settings",
            "LIVE_SERVER_SETTINGS": str(settings.SETTINGS_MODULE),
            "LIVE_SERVER_DATABASES": json.dumps(databases),
        }
        return LiveServer(
            folder=folder,
            environment=served | (environment or {}),
            databases=databases,
            **options,
        )


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    django_db_modify_db_settings_parallel_suffix: None,
) -> None:
    """Put SQLite's test databases into files if tests need servers."""
    used = (getattr(item, "fixturenames", ()) for item in request.session.items)
    if not any("servers" in names for names in used):
        return
    for alias in connections:
        one = connections[alias]
        if one.vendor == "sqlite" and not one.settings_dict["TEST"].get("NAME"):
            folder = tmp_path_factory.mktemp("databases")
            one.settings_dict["TEST"]["NAME"] = str(folder / f"{alias}.sqlite3")


@pytest.fixture
def servers(transactional_db: None, tmp_path: Path) -> Iterator[Servers]:
    """Starts servers of the project on the test database, and ends them all."""
    running = _SharingServers(tmp_path)
    yield running
    running.stop_all()


@pytest.fixture
def live_server(request: pytest.FixtureRequest, servers: Servers) -> LiveServer:
    """
    A server of the project in its own process, on the test database.

    `@pytest.mark.live_server(config={...})` passes options to LiveServer.
    """
    marker = request.node.get_closest_marker("live_server")
    return servers.start(**(marker.kwargs if marker else {}))


@pytest.fixture(autouse=True)
def _live_server_helper() -> None:
    """Replace pytest-django's helper, which inspects its own live_server."""


@pytest.fixture(autouse=True)
def close_raw_clients() -> Iterator[None]:
    """Close the sockets of a test, also after a failure."""
    yield
    RawClient.close_all()
