"""Provide every test with databases, server processes and a hypothesis profile."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import SyncToAsync
from django.conf import settings as project
from django.db import connections
from django.test import override_settings
from hypothesis import settings

from connections.ends import end_log
from connections.error_log import error_filter
from connections.testing import Servers, wait_until
from tests.integration.nginx import make_certificate
from tests.integration.redis_cluster import RedisCluster
from tests.integration.redis_process import RedisProcess
from tests.integration.sentinels import Sentinels
from tests.integration.services import PostgresProcess
from tests.project import ProjectServers, make_server

pytest_plugins = [
    "connections.testing.plugin",
    "tests.plugins.budget",
    "tests.plugins.calibration",
    "tests.plugins.emptying",
    "tests.plugins.selection",
    "tests.plugins.unstable",
]

# CI runs the same examples every time, so that chance does not fail a change.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("home", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "home")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("invariants", "the run of tests/faults/chaos.py")
    group.addoption(
        "--invariant-seconds", type=float, default=60, help="how long it lasts"
    )
    group.addoption(
        "--invariant-seed", type=int, default=None, help="what happens in it, and when"
    )
    group.addoption(
        "--invariant-faults",
        type=lambda text: text.split(","),
        default=(),
        metavar="FAULT,...",
        help="what to break (tests/faults/nemesis.py), by default all",
    )
    group = parser.getgroup("simulation", "the machine of tests/simulation")
    group.addoption(
        "--simulation-examples", type=int, default=0, help="how many runs it has"
    )
    group.addoption(
        "--simulation-seed", type=int, default=1, help="what happens in them"
    )


@pytest.fixture(scope="session")
def django_db_modify_db_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give each run its own SQLite file, so that concurrent runs do not collide."""
    database = project.DATABASES["default"]
    if database["ENGINE"] == "django.db.backends.sqlite3":
        database["TEST"]["NAME"] = tmp_path_factory.mktemp("database") / "test.sqlite3"


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    """List the tests that were skipped for lack of a program."""
    for report in terminalreporter.getreports("skipped"):
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else ""
        if "NOT RUN" in reason:
            note = reason.removeprefix("Skipped: ")
            terminalreporter.write_line(f"{note} ({report.nodeid})", yellow=True)


@pytest.fixture(autouse=True)
def new_logs() -> None:
    """Let each test see the first errors and ends, as in a new process."""
    error_filter.forget()
    end_log.forget()


@pytest.fixture(autouse=True, scope="module")
def quick_settings(request: pytest.FixtureRequest) -> Iterator[None]:
    """
    Hash passwords with MD5, and serve no static files, but in processes of servers.

    The middleware looks for all static files once for each client of Django's tests.
    """
    selection: Any = request.config.pluginmanager.get_plugin("tests.plugins.selection")
    if selection.is_live(request.path):
        yield
        return
    quick = "django.contrib.auth.hashers.MD5PasswordHasher"
    with override_settings(
        PASSWORD_HASHERS=[quick, *project.PASSWORD_HASHERS],
        SERVESTATIC_USE_FINDERS=False,
        SERVESTATIC_USE_STATIC_ROOT=False,
    ):
        yield


@pytest.fixture(autouse=True, scope="session")
def layer_in_memory() -> Iterator[None]:
    """Send groups of this process in memory: tests may roll their database back."""
    layer = {"BACKEND": "connections.layers.local.LocalLayer"}
    with override_settings(CHANNEL_LAYERS={"default": layer}):
        yield


@pytest.fixture(autouse=True)
def close_connections_of_threads() -> Iterator[None]:
    """
    Close database connections that a test left open in the thread of asgiref.

    Channels looks at an open one before each handler of a synchronous consumer, which
    fails in the next test where that may not use the database.
    """
    yield
    SyncToAsync.single_thread_executor.submit(connections.close_all).result()


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with every migration applied, to copy."""
    folder = tmp_path_factory.mktemp("template")
    make_server(folder).manage("migrate", "--verbosity", "0")
    return folder / "db.sqlite3"


@pytest.fixture
def servers(tmp_path: Path, migrated_database: Path) -> Iterator[Servers]:
    """Start real server processes, and stop them after the test."""
    running = ProjectServers(tmp_path, migrated_database)
    yield running
    running.stop_all()


@pytest.fixture(scope="module")
def shared_servers(
    tmp_path_factory: pytest.TempPathFactory, migrated_database: Path
) -> Iterator[ProjectServers]:
    """Servers shared by the tests of a module; each test uses its own clients."""
    running = ProjectServers(tmp_path_factory.mktemp("shared"), migrated_database)
    yield running
    running.stop_all()


@pytest.fixture
def redis_process() -> Iterator[RedisProcess]:
    """A private Redis for one test to break."""
    process = RedisProcess().start()
    yield process
    process.resume()
    process.remove()


@pytest.fixture
async def sentinels(tmp_path: Path) -> AsyncIterator[Sentinels]:
    made = Sentinels(tmp_path)
    try:
        await wait_until(made.is_complete, 30)
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="session")
def shared_redis_cluster() -> Iterator[RedisCluster]:
    cluster = RedisCluster()
    try:
        yield cluster.start()
    finally:
        cluster.remove()


@pytest.fixture
def redis_cluster(shared_redis_cluster: RedisCluster) -> Iterator[RedisCluster]:
    """A private Redis Cluster that holds nothing; it is repaired after the test."""
    shared_redis_cluster.flush()
    yield shared_redis_cluster
    shared_redis_cluster.repair()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresProcess]:
    """A private PostgreSQL without project databases."""
    server = PostgresProcess()
    try:
        yield server.create()
    finally:
        server.remove()


@pytest.fixture(scope="session")
def migrated_postgres(
    postgres_server: PostgresProcess, tmp_path_factory: pytest.TempPathFactory
) -> PostgresProcess:
    """The private PostgreSQL with a migrated database, `migrated`, to copy."""
    url = postgres_server.create_database("migrated")
    folder = tmp_path_factory.mktemp("migrated")
    migrating = make_server(folder, environment={"DATABASE_URL": url})
    migrating.manage("migrate", "--verbosity", "0")
    return postgres_server


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and the host of deploy/, and its key."""
    return make_certificate(tmp_path_factory.mktemp("tls"))
