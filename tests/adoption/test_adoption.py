"""Projects that differ from ours keep every promise: the same checks for each."""

import asyncio
import logging
import re
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from connections.testing import wait_until
from connections.testing.waiting import scale
from tests.adoption import command_checks, page_checks, socket_checks
from tests.adoption.case import CHECKS, Case, Check
from tests.adoption.projects import Project
from tests.adoption.variations import VARIATIONS
from tests.integration.services import PostgresProcess
from tests.unix_sockets import is_listening

__all__ = ["command_checks", "page_checks", "socket_checks"]

DATABASES = ("sqlite", "postgres")

PRODUCT = [(name, database) for name in VARIATIONS for database in DATABASES]

_AT_ONCE = 6
"""Checks that run at the same time: most of them wait."""

CONFIG = {
    # A check may wait for its commands behind those of the others.
    "idle_timeout_seconds": scale(10),
    "node__beat_seconds": 0.5,
    # A slow machine pauses a node for seconds, which must cost no slot.
    "node__lease_seconds": scale(6),
    "node__node_timeout_seconds": scale(15),
    "handshake__timeout_seconds": scale(10),
    "expiry__grace_seconds": 1,
    "max_message_size": "64kB",
    "handshake__per_address_burst": 500,
    "handshake__per_address_pending": 500,
}


SAMPLE = {
    ("quickstart", "sqlite"),
    ("uuid_user", "postgres"),
    ("own_login", "sqlite"),
    ("base_class", "sqlite"),
    ("no_time_zones", "sqlite"),
    ("login_required", "postgres"),
    ("own_database", "postgres"),
    ("stripped_prefix", "sqlite"),
    ("german", "sqlite"),
    ("observe_mode", "sqlite"),
}
"""The projects that CI serves; `script/test --long` serves all of them."""


def _mark(name: str, database: str) -> object:
    marks = [] if (name, database) in SAMPLE else [pytest.mark.long]
    return pytest.param(name, database, marks=marks, id=f"{name}-{database}")


def test_there_are_about_a_hundred_checks() -> None:
    assert len(CHECKS) >= 100


def test_every_check_that_is_left_out_exists() -> None:
    left_out = {one for variation in VARIATIONS.values() for one in variation.left_out}
    assert left_out <= set(CHECKS)


@pytest.mark.parametrize(
    ("name", "database"),
    [_mark(name, database) for name, database in PRODUCT],
)
async def test_a_project_keeps_every_promise(
    name: str,
    database: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    # It would log every request, and hide what failed.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    url = None
    if database == "postgres":
        postgres: PostgresProcess = request.getfixturevalue("postgres_server")
        url = postgres.create_database(f"adoption_{name}")
        if "own" in VARIATIONS[name].databases:
            postgres.create_database(f"adoption_{name}_own")
    project = Project(tmp_path, VARIATIONS[name], postgres_url=url)
    await asyncio.to_thread(project.prepare)
    server = project.make_server(**CONFIG)
    await asyncio.to_thread(server.start, is_ready=not project.variation.is_unix)
    if project.variation.is_unix:
        await wait_until(lambda: is_listening(project.socket), 60)
    case = Case(project, server)
    failed: dict[str, str] = {}
    turns = asyncio.Semaphore(_AT_ONCE)

    async def run(check_name: str, check: Check) -> None:
        try:
            async with turns, asyncio.timeout(scale(120)):
                await check(case)
        except Exception as exc:
            line = traceback.extract_tb(exc.__traceback__)[-1]
            failed[check_name] = f"{type(exc).__name__}: {exc} (line {line.lineno})"

    try:
        await case.populate()
        left_out = project.variation.left_out
        checks = [one for one in CHECKS.items() if one[0] not in left_out]
        await asyncio.gather(*(run(*one) for one in checks))
    finally:
        await case.staff.close()
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(project.close)
    noise = list(find_noise(server.log()))
    found = [f"{one}: {why}" for one, why in failed.items()]
    assert failed == {}, "\n".join([*found, *noise[:10]])
    assert noise == [], noise[:10]


def find_noise(log: str) -> Iterator[str]:
    """Yield the lines of a server's log that an operator would have to explain."""
    # Tracebacks of log records are indented and follow their line.
    bad = re.compile(r"^Traceback|^\S+ \S+ (ERROR|CRITICAL) |locked|RuntimeWarning")
    lines = iter(log.splitlines())
    for line in lines:
        if line.startswith("Traceback"):
            yield next((one for one in lines if not one.startswith(" ")), line)[:300]
        elif bad.search(line) and "A handler failed" not in line:
            yield line[:300]
