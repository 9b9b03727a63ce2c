"""A node warms up before its first handshake, and starts even if that fails."""

import threading
from typing import Any

import pytest

from connections.exceptions import DatabaseUnavailable
from connections.node.node import Node
from connections.node.warmup import warm_up
from connections.storage.database import READERS, Database
from connections.testing.communicators import make_config


class Away(Database):
    """A database that does not answer."""

    async def read(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        raise DatabaseUnavailable("away")


def find_readers() -> set[threading.Thread]:
    running = threading.enumerate()
    return {one for one in running if one.name.startswith("connections-reader")}


@pytest.mark.django_db(transaction=True)
async def test_each_reading_thread_looks_up_a_token() -> None:
    before = find_readers()
    database = Database()
    await warm_up(Node(make_config(), database=database))
    # Readers of nodes that have stopped may end meanwhile.
    assert len(find_readers() - before) == READERS
    assert database.failure is None
    await database.close()


async def test_a_database_that_does_not_answer_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await warm_up(Node(make_config(), database=Away()))
    assert "The database does not answer yet" in caplog.text


async def test_without_a_database_there_is_nothing_to_do() -> None:
    await warm_up(Node(make_config()))
