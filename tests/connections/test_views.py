"""Test /livez and /readyz."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import OperationalError
from django.test import RequestFactory

from connections.exceptions import DatabaseUnavailable
from connections.models import Ban
from connections.node.current import get_node
from connections.node.node import Node
from connections.views.health import livez, readyz

NOBODY = "redis://127.0.0.1:1/0"
"""A URL without a Redis server."""


async def ask() -> tuple[int, str, list[str]]:
    response = await readyz(RequestFactory().get("/readyz"))
    content = json.loads(response.content)
    return response.status_code, content["status"], content["reasons"]


@pytest.fixture
def websocket(settings: Any) -> Iterator[dict[str, Any]]:
    """Configuration keys, which tests set before the node exists."""
    settings.WEBSOCKET = {}
    yield settings.WEBSOCKET


async def degrade(settings: Any) -> Node:
    settings.REDIS_URL = NOBODY
    node = get_node()
    await node.pool.renew([])
    return node


async def test_a_serving_node_is_ok() -> None:
    assert await ask() == (200, "ok", [])
    assert (await livez(RequestFactory().get("/livez"))).status_code == 200


async def test_a_draining_node_is_not_ready() -> None:
    get_node().begin_drain()
    assert await ask() == (503, "draining", [])


async def test_a_node_without_its_shared_pool_is_degraded(settings: Any) -> None:
    node = await degrade(settings)
    status, word, reasons = await ask()
    assert (status, word) == (200, "degraded")
    assert (
        "the shared pool is unavailable; policy for new connections: local" in reasons
    )
    assert "127.0.0.1" not in str(reasons)
    await node.pool.close()


async def test_a_node_that_refuses_all_clients_is_not_ready(
    settings: Any, websocket: dict[str, Any]
) -> None:
    websocket["on_pool_outage"] = "refuse"
    node = await degrade(settings)
    status, word, _ = await ask()
    assert (status, word) == (503, "unavailable")
    await node.pool.close()


@pytest.mark.django_db(transaction=True)
async def test_without_its_database_a_node_is_degraded_until_it_answers() -> None:
    database = get_node().database
    assert database is not None

    def fail() -> None:
        raise OperationalError("gone")

    with pytest.raises(DatabaseUnavailable):
        await database.write(fail)
    status, word, reasons = await ask()
    assert (status, word) == (200, "degraded")
    assert reasons == ["the database does not answer; records wait in memory"]
    await database.write(Ban.objects.create, target="client", value="alice")
    assert await ask() == (200, "ok", [])
    await database.close()
