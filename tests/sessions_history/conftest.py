"""Nodes with a real database, for everything that reaches it."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from connections.exceptions import DatabaseUnavailable
from connections.node.current import get_node
from connections.node.node import Node
from connections.storage.database import Database
from connections.testing.communicators import make_config
from sessions_history import writer
from sessions_history.work import renew
from tests.sessions_history.asking import PAGE

MakeNode = Callable[..., Node]


class SwitchableDatabase(Database):
    """The real database, which a test can take away."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.trouble: Exception | None = None
        """What the next write raises."""
        self.loses_reply = False
        """True to commit the next write and lose the reply."""

    async def write_urgently(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        if self.is_away:
            raise DatabaseUnavailable("away")
        trouble, self.trouble = self.trouble, None
        if trouble is not None:
            raise trouble
        result = await super().write_urgently(work, *args, **kwargs)
        if self.loses_reply:
            self.loses_reply = False
            raise DatabaseUnavailable("the reply to COMMIT is lost")
        return result


class DyingDatabase(SwitchableDatabase):
    """That of a node which dies before it looks for work whose commit it missed."""

    async def write(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        if work is renew:
            raise DatabaseUnavailable("dying")
        return await super().write(work, *args, **kwargs)


@pytest.fixture(autouse=True)
def no_writer_is_left() -> Iterator[None]:
    """Close the writer of this process, which keeps the settings of its first use."""
    yield
    writer.close()


@pytest.fixture
async def make_node() -> AsyncIterator[MakeNode]:
    """Makes nodes of one cluster; their threads end with the test."""
    made: list[Node] = []

    def make(database: Database | None = None, **values: Any) -> Node:
        made.append(Node(make_config(**values), database=database or Database()))
        return made[-1]

    yield make
    for node in made:
        await node.stop()


@pytest.fixture
async def node(settings: Any) -> AsyncIterator[Node]:
    settings.WEBSOCKET = {"allowed_origins": [PAGE], "anonymous": True}
    settings.ALLOWED_HOSTS = ["testserver"]
    node = get_node()
    database = node.database
    yield node
    await node.stop()
    if database is not None and database is not node.database:
        # A test gave the node another one.
        await database.close()
