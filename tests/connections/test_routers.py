"""Test database routers: users in another database, and replicas that lag."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core import checks
from django.db import connections

from connections.storage.checks import check_router
from connections.testing.waiting import scale
from tests.project import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("name", ["apart", "replica"])
def test_every_query_takes_the_database_of_its_table(name: str, tmp_path: Path) -> None:
    """The databases of a test run are fixed at its start: each case has its own."""
    environment = {**os.environ, "ROUTED": name, "ORCHESTRA_VAR": str(tmp_path)}
    environment.pop("DATABASE_URL", None)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("--ds", "tests.routed.settings", f"tests/routed/{name}.py"),
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=scale(120),
    )
    assert done.returncode == 0, done.stdout[-6000:]


class Divided:
    """Puts the sessions into another database than the connections."""

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        return "elsewhere" if model._meta.app_label == "sessions_history" else None


class Unmigrated:
    """Sends queries to a database, and no migrations."""

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        return app_label != "connections"


@pytest.mark.parametrize(
    ("router", "identifier", "words"),
    [
        (Divided, "connections.E005", "'default' and 'elsewhere'"),
        (Unmigrated, "connections.E006", "'default'"),
    ],
)
def test_a_router_that_cannot_work_is_an_error(
    router: Any,
    identifier: str,
    words: str,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert check_router() == []
    elsewhere = connections.configure_settings({})["default"]
    monkeypatch.setitem(connections.databases, "elsewhere", elsewhere)
    settings.DATABASE_ROUTERS = [router()]
    (found,) = check_router()
    assert (found.id, found.level) == (identifier, checks.ERROR)
    assert words in found.msg
