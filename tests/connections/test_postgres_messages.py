"""Test that the sweeper deletes old messages of PostgreSQL in bounded batches."""

from collections.abc import AsyncIterator

import pytest
from django.db import connection

from connections.storage.database import Database
from connections.sweeper.sweeper import Sweeper
from connections.sweeper.tasks import SweepTask, get_sweep_tasks
from connections.testing.communicators import make_config
from tests.connections.layer_database import LayerDatabase
from tests.connections.pool_database import ForeignDatabase
from tests.integration.services import PostgresProcess

OLD, NEW = "2 minutes", "30 seconds"

TABLES = ("bus_message", "layer_message", "layer_poller")


@pytest.fixture(scope="module")
def messages(postgres_server: PostgresProcess) -> LayerDatabase:
    return LayerDatabase(postgres_server, "messages")


@pytest.fixture
async def database(messages: LayerDatabase) -> AsyncIterator[Database]:
    database = ForeignDatabase(messages.server.port, messages.name)
    yield database
    await database.close()


def find_task() -> SweepTask:
    (task,) = (one for one in get_sweep_tasks() if one.name == "messages_pruned")
    return task


def fill(messages: LayerDatabase) -> None:
    """Write five old rows and a newer one into each table."""
    names = ", ".join(f"connections_{table}" for table in TABLES)
    with messages.connect() as session:
        session.execute(f"TRUNCATE {names}".encode())
        for age in (*[OLD] * 5, NEW):
            moment = f"clock_timestamp() - interval '{age}'"
            session.execute(
                "INSERT INTO connections_bus_message (payload, sent_at)"
                f" VALUES ('', {moment})".encode()
            )
            session.execute(
                "INSERT INTO connections_layer_message (channel, payload, sent_at)"
                f" VALUES ('c', '', {moment})".encode()
            )
            session.execute(
                "INSERT INTO connections_layer_poller"
                f" VALUES (gen_random_uuid(), 'c', {moment} + interval '1 minute')"
                "".encode()
            )


def count_rows(messages: LayerDatabase) -> list[int]:
    found = []
    with messages.connect() as session:
        for table in TABLES:
            query = f"SELECT count(*) FROM connections_{table}".encode()
            row = session.execute(query).fetchone()
            assert row is not None
            found.append(row[0])
    return found


async def test_old_messages_are_deleted_a_batch_at_a_time(
    messages: LayerDatabase, database: Database
) -> None:
    fill(messages)
    task, config = find_task(), make_config()
    assert await database.run_briefly(task.count, config) == 15
    counts: list[int] = []
    while not counts or counts[-1]:
        counts.append(await database.run_briefly(task.work, config, 4))
    assert counts == [4, 4, 4, 3, 0]
    assert count_rows(messages) == [1, 1, 1]
    assert await database.run_briefly(task.count, config) == 0


async def test_messages_that_a_sender_deletes_are_left_to_it(
    messages: LayerDatabase, database: Database
) -> None:
    """The sweep waits for no transaction of a sender."""
    fill(messages)
    with messages.connect() as sender:
        sender.autocommit = False
        sender.execute(
            "DELETE FROM connections_layer_message WHERE message_id IN ("
            "SELECT min(message_id) FROM connections_layer_message)"
        )
        assert await database.run_briefly(find_task().work, make_config(), 100) == 14
        sender.commit()
    assert count_rows(messages) == [1, 1, 1]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_dry", [True, False])
def test_each_sweep_counts_the_messages(is_dry: bool) -> None:
    """Also on databases that carry none; on PostgreSQL another test may leave some."""
    swept = Sweeper(make_config(), is_dry=is_dry).sweep_once()
    count = swept.tasks["messages_pruned"]
    assert count >= 0 if connection.vendor == "postgresql" else count == 0
