"""Close requests take effect at once, from any process."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest
from channels.db import database_sync_to_async
from django.db import transaction
from django.utils import timezone

from connections.announcements import (
    MAY_RETURN,
    STAFF_REASONS,
    listen,
    post_close_requests,
    stop_listening,
)
from connections.close_codes import CLOSE_REASONS, Reconnect
from connections.models import CloseRequest
from connections.models import Node as NodeRow
from connections.node.node import Node
from connections.redis.bus import RedisBus
from connections.storage.database import Database
from connections.testing import FakeClock, wait_until
from connections.testing.communicators import connect_to, make_config
from tests.connections.conversations import Echo, receive_close
from tests.integration.redis_process import RedisProcess

pytestmark = pytest.mark.django_db(transaction=True)

LATE = {"beat_seconds": 60, "lease_seconds": 60}
"""A node that beats too seldom to beat twice in a test."""


@pytest.fixture
def announced() -> Iterator[list[str]]:
    """The announcements that a listener of this process received."""
    received: list[str] = []

    def listener() -> bool:
        received.append("close requests")
        return True

    listen(listener)
    yield received
    stop_listening(listener)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """A running node whose first beat is done and whose second is far off."""
    node = Node(make_config(node=LATE), database=Database())
    await node.start()
    await wait_until(NodeRow.objects.filter(node_id=node.node_id).aexists)
    yield node
    await node.stop()


def make_request(**values: Any) -> CloseRequest:
    values = {"target": "client", "value": "alice", "reason": "kicked", **values}
    return CloseRequest(**values)


async def test_a_request_takes_effect_without_a_beat(node: Node) -> None:
    communicator = connect_to(Echo, node)
    assert (await communicator.connect())[0]
    await database_sync_to_async(post_close_requests)(make_request())
    assert (await receive_close(communicator))["code"] == 4009
    await communicator.disconnect()


def test_nothing_is_announced_before_the_commit(announced: list[str]) -> None:
    with transaction.atomic():
        post_close_requests(make_request())
        assert announced == []
    assert announced == ["close requests"]


def test_a_rollback_leaves_nothing(announced: list[str]) -> None:
    with pytest.raises(KeyError), transaction.atomic():
        post_close_requests(make_request())
        raise KeyError
    assert announced == []
    assert not CloseRequest.objects.exists()


def test_no_request_is_no_announcement(announced: list[str]) -> None:
    post_close_requests()
    assert announced == []


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"target": "planet"}, "target is 'planet', not one of connection"),
        ({"reason": "because"}, "reason is 'because', not one of .*kicked"),
        ({"reason": "lost"}, "reason is 'lost'"),
        ({"value": ""}, "value is empty: which client"),
        ({"target": "address", "value": "here"}, "'here'"),
        ({"spread_seconds": -1}, "spread_seconds is -1, not a number from 0"),
        ({"spread_seconds": float("nan")}, "spread_seconds is nan"),
    ],
)
def test_an_invalid_request_posts_nothing(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        post_close_requests(make_request(), make_request(**values))
    assert not CloseRequest.objects.exists()


def test_one_reason_of_staff_lets_clients_reconnect() -> None:
    returning = [
        one for one in STAFF_REASONS if CLOSE_REASONS[one].reconnect is Reconnect.NOW
    ]
    assert returning == [MAY_RETURN]


@pytest.mark.parametrize("is_node_here", [True, False])
async def test_nodes_of_other_processes_are_notified_over_redis(
    redis_server: RedisProcess, settings: Any, *, is_node_here: bool
) -> None:
    """By a node of this process, else by the process itself, such as a command."""
    settings.REDIS_URL = redis_server.url
    other = RedisBus(redis_server.url, node_id="other")
    is_notified = asyncio.Event()
    other.on_message("close_requests", lambda message: is_notified.set())
    await other.start()
    await wait_until(lambda: other.is_subscribed)
    node = Node(make_config(node=LATE), database=Database(), redis_url=redis_server.url)
    if is_node_here:
        await node.start()
    post = database_sync_to_async(post_close_requests)

    async def post_and_look() -> bool:
        """A single announcement may be lost: it is a hint."""
        await post(make_request())
        return is_notified.is_set()

    await wait_until(post_and_look)
    await other.close()
    await node.stop()
    await node.pool.close()


async def test_a_request_is_posted_while_redis_is_away(settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    await database_sync_to_async(post_close_requests)(make_request())
    assert await CloseRequest.objects.acount() == 1


async def test_a_node_applies_requests_posted_while_the_database_was_away() -> None:
    """A request is read however long ago it was posted."""
    database, clock = Database(), FakeClock()
    node = Node(make_config(), database=database, clock=clock)
    communicator = connect_to(Echo, node)
    assert (await communicator.connect())[0]
    clock.advance(3600)
    soon_after_the_last_poll = timezone.now() - timedelta(seconds=3540)
    request = make_request(created_at=soon_after_the_last_poll)
    await database_sync_to_async(CloseRequest.objects.post)([request])
    await node.beat()
    assert (await receive_close(communicator))["code"] == 4009
    await communicator.disconnect()
    await database.close()
