"""Provide databases that tests can break under live servers."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.databases import Store, make_postgres_store
from tests.integration.services import PostgresProcess


@pytest.fixture
def postgres_store(
    migrated_postgres: PostgresProcess, tmp_path: Path
) -> Iterator[Store]:
    """A migrated PostgreSQL database."""
    with make_postgres_store(migrated_postgres, tmp_path) as store:
        yield store


@pytest.fixture(params=["sqlite", "postgresql"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, migrated_database: Path
) -> Store:
    """A migrated SQLite or PostgreSQL database."""
    if request.param == "postgresql":
        found: Store = request.getfixturevalue("postgres_store")
        return found
    shutil.copy(migrated_database, tmp_path / "db.sqlite3")
    return Store(folder=tmp_path)
