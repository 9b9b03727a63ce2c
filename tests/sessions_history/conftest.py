"""Nodes with a real database, for everything that reaches it."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from connections.database import Database
from connections.node import Node
from tests.connections.conversations import make_config

MakeNode = Callable[..., Node]


@pytest.fixture
async def make_node() -> AsyncIterator[MakeNode]:
    """Makes nodes of one cluster; their threads end with the test."""
    made: list[Node] = []

    def make(**values: Any) -> Node:
        made.append(Node(make_config(**values), database=Database()))
        return made[-1]

    yield make
    for node in made:
        await node.stop()
