"""Projects that differ from ours keep every promise: the same checks for each."""

import asyncio
import logging
import traceback
from pathlib import Path

import pytest

from connections.testing.waiting import scale
from tests.adoption.checks import CHECKS, Case, Check, find_noise
from tests.adoption.projects import Project
from tests.adoption.variations import VARIATIONS
from tests.integration.services import PostgresProcess

DATABASES = ("sqlite", "postgres")

PRODUCT = [(name, database) for name in VARIATIONS for database in DATABASES]

_AT_ONCE = 4
"""Checks that run at the same time: most of them wait."""

CONFIG = {
    "idle_timeout_seconds": 20,
    "node__beat_seconds": 0.5,
    "node__lease_seconds": 6,
    "max_message_size": "64kB",
}


SAMPLE = {
    ("quickstart", "sqlite"),
    ("uuid_user", "postgres"),
    ("no_time_zones", "sqlite"),
    ("login_required", "postgres"),
    ("german", "sqlite"),
}
"""The projects that CI serves; `script/test --long` serves all of them."""


def _mark(name: str, database: str) -> object:
    marks = [] if (name, database) in SAMPLE else [pytest.mark.long]
    return pytest.param(name, database, marks=marks, id=f"{name}-{database}")


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
    project = Project(tmp_path, VARIATIONS[name], postgres_url=url)
    await asyncio.to_thread(project.prepare)
    server = project.make_server(**CONFIG)
    await asyncio.to_thread(server.start)
    failed: dict[str, str] = {}
    turns = asyncio.Semaphore(_AT_ONCE)

    async def run(check_name: str, check: Check) -> None:
        try:
            async with turns, asyncio.timeout(scale(120)):
                await check(Case(project, server))
        except Exception as exc:
            line = traceback.extract_tb(exc.__traceback__)[-1]
            failed[check_name] = f"{type(exc).__name__}: {exc} (line {line.lineno})"

    try:
        await asyncio.gather(*(run(*one) for one in CHECKS.items()))
    finally:
        await asyncio.to_thread(server.stop)
    noise = list(find_noise(server.log()))
    assert failed == {}, "\n".join(f"{one}: {why}" for one, why in failed.items())
    assert noise == [], noise[:10]
