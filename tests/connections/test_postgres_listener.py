"""Test that no message can end a listener on PostgreSQL."""

from collections.abc import AsyncIterator, Callable

import pytest

from connections.postgres.listener import Listener
from connections.testing import wait_until
from connections.testing.waiting import scale
from tests.connections.pool_database import ForeignDatabase, PoolDatabase
from tests.logged import find_records

CHANNEL = "listened"


class Heard:
    """What a listener passes on, with a callback that fails on one text."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.returns = 0

    def take(self, channel: str, text: str) -> None:
        if text == "bad":
            raise RecursionError("planted")
        self.texts.append(text)

    def count_return(self) -> None:
        self.returns += 1


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def send(
    pool_database: PoolDatabase, heard: Heard
) -> AsyncIterator[Callable[[str], None]]:
    """Send a notification to a listener that is subscribed."""
    database = ForeignDatabase(pool_database.port, pool_database.name)
    listener = Listener(
        (CHANNEL,),
        name="The listener",
        database=database,
        on_message=heard.take,
        on_return=heard.count_return,
        url=pool_database.server.url(pool_database.name),
        timeout_seconds=scale(5),
    )
    await listener.wait()
    yield lambda text: pool_database.run(f"NOTIFY {CHANNEL}, '{text}'")
    await listener.close()
    await database.close()


async def test_a_callback_that_raises_loses_its_message_alone(
    send: Callable[[str], None], heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the connection stays."""
    for text in ("bad", "good"):
        send(text)
    await wait_until(lambda: heard.texts == ["good"])
    assert heard.returns == 0
    said = find_records(caplog, "connections.postgres.listener")
    (failed,) = (one for one in said if one.levelname == "ERROR")
    assert "The listener could not hand on a message" in failed.getMessage()


async def test_a_large_message_whose_row_is_gone_is_reported_as_lost(
    send: Callable[[str], None], heard: Heard
) -> None:
    """Rows are deleted after a minute, also under a listener that hangs."""
    send("123456789")
    await wait_until(lambda: heard.returns == 1)
    send("good")
    await wait_until(lambda: heard.texts == ["good"])


async def test_a_notification_that_cannot_be_read_costs_a_new_connection(
    send: Callable[[str], None], heard: Heard
) -> None:
    """Python reads no number of 5000 digits, and raises no error of a database."""
    send("9" * 5000)
    await wait_until(lambda: heard.returns == 1)
    send("good")
    await wait_until(lambda: heard.texts == ["good"])
