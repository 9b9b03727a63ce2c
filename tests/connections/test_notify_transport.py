"""Test what the PostgreSQL layer does with messages that wait to be sent."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from connections.exceptions import DatabaseUnavailable
from connections.layers.postgres import PostgresLayer
from connections.storage.database import Database
from connections.testing import wait_until


class SilentDatabase(Database):
    """A database that never answers."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        """The sizes of the statements that send several messages."""

    async def run_briefly(
        self, work: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        if len(args[1]) > 1:
            self.batches.append(len(args[1]))
        await asyncio.Event().wait()


class SilentLayer(PostgresLayer):
    """A layer whose first database never answers."""

    def __init__(self, **options: Any) -> None:
        super().__init__(listen_url="", **options)
        self.silent = SilentDatabase()
        self._is_made = False

    def make_database(self) -> Database:
        is_made, self._is_made = self._is_made, True
        return super().make_database() if is_made else self.silent


async def send_many(layer: PostgresLayer, count: int) -> None:
    await asyncio.gather(*(layer.group_send("g", {"type": "x"}) for _ in range(count)))


async def test_flush_closes_the_database_after_a_sender_was_cancelled() -> None:
    """A statement holds 500 messages, so the last one waits for the next."""
    layer = SilentLayer(timeout_seconds=60)
    sending = asyncio.create_task(send_many(layer, 501))
    await wait_until(lambda: layer.silent.batches == [500])
    sending.cancel()
    await asyncio.wait([sending])
    await layer.flush()
    with pytest.raises(DatabaseUnavailable, match="stopped"):
        await layer.silent.read(list)


async def test_only_the_first_statement_waits_for_a_database_that_is_away() -> None:
    layer = SilentLayer(timeout_seconds=0.1)
    await send_many(layer, 1500)
    assert layer.silent.batches == [500]
    assert layer.dropped == 1500
    await layer.flush()
