"""Two releases, installed, and nodes that run them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.redis_process import RedisProcess
from tests.integration.services import PostgresProcess
from tests.upgrade.cluster import Cluster
from tests.upgrade.releases import find_previous, install_previous, install_tree


@pytest.fixture
def previous(tmp_path: Path) -> Path:
    """The previous release, installed."""
    return install_previous(find_previous(), tmp_path / "previous")


@pytest.fixture
def next_release(tmp_path: Path) -> Path:
    """The release of this tree, installed."""
    return install_tree(tmp_path / "next")


@pytest.fixture
def cluster(
    tmp_path: Path, postgres_server: PostgresProcess, redis_process: RedisProcess
) -> Iterator[Cluster]:
    """Two nodes that are not started, with an empty database."""
    url = postgres_server.create_database("upgrade")
    cluster = Cluster(tmp_path, url, redis_process.url)
    yield cluster
    cluster.stop()
    with postgres_server.connect("postgres") as connection:
        connection.execute("DROP DATABASE upgrade WITH (FORCE)")
