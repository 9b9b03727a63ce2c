"""Provide the databases that incidents break."""

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
