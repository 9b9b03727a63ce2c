"""Test that the hub finds the connections that a close request selects."""

import asyncio
import time
import uuid

import pytest

from connections.close_codes import KICKED
from connections.credentials.identity import Credential
from connections.hub.connection import LiveConnection, new_connection_id
from connections.hub.hub import Hub
from connections.models import CloseRequest
from tests.connections.live_connections import SilentSender, make_connection

Target = CloseRequest.Target


@pytest.fixture
def hub() -> Hub:
    by_token = Credential(client_id="alice", token_id=7)
    by_session = Credential(client_id="bob", session_digest="d")
    hub = Hub()
    hub.join(make_connection("a1", user_id=1, address="10.1.2.3"))
    hub.join(make_connection("a2", credential=by_token, address="2001:db8::1"))
    hub.join(
        make_connection(
            "b1", client_id="bob", credential=by_session, address="10.9.0.1"
        )
    )
    hub.join(make_connection("b2", client_id="bob"))
    return hub


@pytest.mark.parametrize(
    ("target", "value", "expected"),
    [
        (Target.CONNECTION, "a1", ["a1"]),
        (Target.CONNECTION, "gone", []),
        (Target.CLIENT, "bob", ["b1", "b2"]),
        (Target.CLIENT, "nobody", []),
        (Target.USER, "1", ["a1"]),
        (Target.USER, "2", []),
        (Target.SESSION_KEY, "d", ["b1"]),
        (Target.TOKEN, "7", ["a2"]),
        (Target.ADDRESS, "10.1.2.3", ["a1"]),
        (Target.ADDRESS, "10.0.0.0/8", ["a1", "b1"]),
        (Target.ADDRESS, "10.1.2.99/24", ["a1"]),
        (Target.ADDRESS, "::ffff:10.1.2.3", ["a1"]),
        (Target.ADDRESS, "2001:db8::/64", ["a2"]),
        (Target.ADDRESS, "nonsense", []),
        (Target.ADDRESS, "", []),
        (Target.NODE, "here", ["a1", "a2", "b1", "b2"]),
        (Target.NODE, "elsewhere", []),
        (Target.ALL, "", ["a1", "a2", "b1", "b2"]),
        ("nonsense", "a1", []),
    ],
)
async def test_a_target_selects_its_connections(
    hub: Hub, target: str, value: str, expected: list[str]
) -> None:
    found = [one.connection_id for one in hub.select(target, value, "here")]
    assert sorted(found) == expected


async def test_a_connection_that_left_is_not_found(hub: Hub) -> None:
    connection = hub.get("b1")
    assert connection is not None
    assert hub.leave(connection)
    assert not hub.leave(connection)
    assert "b1" not in hub
    assert len(hub) == 3
    assert [one.connection_id for one in hub.select(Target.CLIENT, "bob", "")] == ["b2"]


async def test_a_renewed_credential_is_found_by_its_new_token(hub: Hub) -> None:
    connection = hub.get("a2")
    assert connection is not None
    hub.renew(connection, Credential(client_id="alice", token_id=8))
    assert hub.select(Target.TOKEN, "7", "") == []
    assert hub.select(Target.TOKEN, "8", "") == [connection]
    hub.leave(connection)
    assert hub.select(Target.TOKEN, "8", "") == []


async def test_a_renewal_before_the_join_counts(hub: Hub) -> None:
    connection = make_connection("late")
    hub.renew(connection, Credential(client_id="alice", session_digest="e"))
    assert hub.select(Target.SESSION_KEY, "e", "") == []
    hub.join(connection)
    assert hub.select(Target.SESSION_KEY, "e", "") == [connection]


async def test_three_of_a_user_leave_one_by_one() -> None:
    hub = Hub()
    connections = [make_connection(str(n), user_id=1) for n in range(3)]
    for connection in connections:
        hub.join(connection)
    while connections:
        assert hub.select(Target.USER, "1", "") == connections
        assert hub.leave(connections.pop(0))
    assert hub.select(Target.USER, "1", "") == []


async def test_connections_may_leave_during_an_iteration(hub: Hub) -> None:
    assert all(hub.leave(connection) for connection in hub)
    assert len(hub) == 0


async def test_emptied_is_set_only_while_the_hub_is_empty() -> None:
    hub = Hub()
    connection = make_connection("a1")
    assert hub.emptied.is_set()
    hub.join(connection)
    assert not hub.emptied.is_set()
    hub.leave(connection)
    assert hub.emptied.is_set()


def test_a_connection_ends_once() -> None:
    sender = SilentSender()
    connection = make_connection("a1", sender=sender)
    assert connection.end(KICKED)
    assert not connection.end(KICKED)
    assert sender.close_reasons == [KICKED]


def test_a_busy_connection_is_not_idle() -> None:
    connection = make_connection("a1", now=100.0)
    assert connection.idle_seconds(107.0) == 7
    connection.busy_count = 1
    assert connection.idle_seconds(107.0) == 0


def test_ids_are_uuids_of_version_7() -> None:
    began_ms = time.time_ns() // 1_000_000
    found = uuid.UUID(new_connection_id())
    ended_ms = time.time_ns() // 1_000_000
    assert (found.version, found.variant) == (7, uuid.RFC_4122)
    assert began_ms <= found.int >> 80 <= ended_ms


def test_ids_sort_by_the_time_they_were_made() -> None:
    first = new_connection_id()
    time.sleep(0.002)
    assert first < new_connection_id()


def test_ids_of_one_moment_differ() -> None:
    assert len({new_connection_id() for _ in range(1000)}) == 1000


async def test_a_pass_in_slices_lets_others_run_and_skips_those_that_leave() -> None:
    """A pass over connections that all end at once would stop the event loop."""
    hub = Hub()
    for number in range(2_000):
        hub.join(make_connection(f"c{number}"))
    *_, last = hub
    seen = []

    def act(connection: LiveConnection) -> None:
        seen.append(connection)
        sum(range(3_000))

    working = asyncio.create_task(hub.for_each_in_slices("The pass of the test", act))
    turns = 0
    while not working.done():
        turns += 1
        if turns == 2:
            hub.leave(last)
        await asyncio.sleep(0)
    assert working.result()
    assert turns > 3
    assert len(seen) == 1_999
    assert last not in seen
