"""A close request ends the connections that it selects, at once or spread out."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from connections.access.reauthorisation import Reauthoriser
from connections.close_codes import ASKED_TO_RECONNECT, KICKED
from connections.credentials.identity import Credential
from connections.hub.connection import LiveConnection
from connections.hub.hub import Hub
from connections.models import CloseRequest
from connections.node.close_requests import AppliedRequests
from connections.node.recent_requests import AppliedRequest, RecentRequests
from connections.node.top import TopCounter
from connections.testing import FakeClock
from connections.testing.communicators import make_config, make_node
from tests.connections.live_connections import make_connection
from tests.connections.virtual_loop import VirtualTime


class CountingHub(Hub):
    """A hub that counts how often all its connections are gone through."""

    def __init__(self) -> None:
        super().__init__()
        self.searches = 0

    def __iter__(self) -> Iterator[LiveConnection]:
        self.searches += 1
        return super().__iter__()


class Case:
    """A hub to which requests are applied, and a clock for it."""

    def __init__(self) -> None:
        self.hub = CountingHub()
        self.top = TopCounter(self.hub)
        self.clock = FakeClock()
        self.applied = AppliedRequests(
            hub=self.hub,
            recorder=None,
            reauthoriser=Reauthoriser(
                make_config(),
                hub=self.hub,
                database=None,
                authenticator=make_node().authenticator,
                clock=self.clock,
            ),
            forget=self._forget,
            node_id="here",
            clock=self.clock,
            clear_top=self.top.clear,
        )
        self._posted = 0
        self.forgotten: list[tuple[str, str]] = []

    def _forget(self, target: str, value: str) -> None:
        self.forgotten.append((target, value))

    def arrive(self, connection_id: str) -> LiveConnection:
        return make_connection(connection_id, now=self.clock())

    def join(self, connection: LiveConnection) -> LiveConnection:
        """As a node does once a connection has its slot."""
        self.hub.join(connection)
        self.applied.apply_to(connection)
        return connection

    def make_request(self, **values: Any) -> CloseRequest:
        self._posted += 1
        values = {
            "pk": self._posted,
            "target": "client",
            "value": "alice",
            "reason": "kicked",
            "created_at": timezone.now(),
            **values,
        }
        return CloseRequest(**values)


@pytest.fixture
async def case() -> Case:
    return Case()


async def test_a_connection_on_its_way_in_is_ended_on_joining(case: Case) -> None:
    """However long its handshake takes, and whatever was applied since."""
    slow = case.arrive("1")
    await case.applied.apply(case.make_request())
    await case.applied.apply(case.make_request(value="bob"))
    case.clock.advance(8)
    assert case.join(slow).close_reason == KICKED


async def test_nodes_drop_their_counts_of_a_forgotten_person(
    case: Case,
) -> None:
    """The last minutes of who uses a node name clients and addresses."""
    connection = case.join(case.arrive("1"))
    case.top.record_refused("planted", "203.0.113.77", "ws/")
    await case.applied.apply(case.make_request(value="bob"))
    assert "planted" in repr(case.top.describe())
    await case.applied.apply(case.make_request(reason="forget"))
    assert "planted" not in repr(case.top.describe())
    assert connection.close_reason == KICKED


async def test_a_later_connection_stays(case: Case) -> None:
    await case.applied.apply(case.make_request(target="all", value=""))
    case.clock.advance(0.01)
    assert case.join(case.arrive("1")).close_reason is None


async def test_a_connection_of_another_client_on_its_way_in_stays(case: Case) -> None:
    slow = case.arrive("1")
    await case.applied.apply(case.make_request(value="bob"))
    assert case.join(slow).close_reason is None


async def test_a_connection_opened_long_after_a_late_request_stays(case: Case) -> None:
    """The database was away: the client has reconnected since the request."""
    connection = case.join(case.arrive("1"))
    assert await case.applied.apply(case.make_request(), 30) == 0
    assert connection.close_reason is None


async def test_a_handshake_begun_long_after_a_late_request_stays(case: Case) -> None:
    slow = case.arrive("1")
    await case.applied.apply(case.make_request(), 30)
    case.clock.advance(1)
    assert case.join(slow).close_reason is None


async def test_a_request_is_forgotten_after_a_minute(case: Case) -> None:
    slow = case.arrive("1")
    await case.applied.apply(case.make_request())
    case.clock.advance(61)
    assert case.join(slow).close_reason is None


def test_spread_ends_come_one_by_one() -> None:
    """In virtual time: a machine that stands still would see them all at once."""

    async def watch() -> set[int]:
        """Return how many had ended at each moment."""
        case = Case()
        connections = [case.join(case.arrive(str(n))) for n in range(8)]
        request = case.make_request(reason="asked_to_reconnect", spread_seconds=0.4)
        assert await case.applied.apply(request) == 8
        assert sum(one.close_reason is not None for one in connections) == 0
        seen = set()
        while (ended := count_ended(connections)) < 8:
            seen.add(ended)
            await asyncio.sleep(0.01)
        return seen

    def count_ended(connections: list[LiveConnection]) -> int:
        return sum(one.close_reason == ASKED_TO_RECONNECT for one in connections)

    with VirtualTime() as time:
        assert len(time.run(watch())) > 2


async def test_a_spread_end_passes_over_a_connection_that_has_left(case: Case) -> None:
    """The recorded reason of its end stays."""
    connection = case.join(case.arrive("1"))
    await case.applied.apply(case.make_request(spread_seconds=0.01))
    case.hub.leave(connection)
    is_over = asyncio.Event()
    # Timers run in order, so the one of the request has run before this one.
    asyncio.get_running_loop().call_later(0.02, is_over.set)
    await is_over.wait()
    assert connection.close_reason is None


@pytest.mark.parametrize(
    ("target", "value"),
    [
        ("connection", "1"),
        ("user", "7"),
        ("session_key", "digest"),
        ("token", "5"),
        ("address", "192.0.2.7"),
        ("address", "192.0.2.0/24"),
        ("node", "here"),
        ("all", ""),
    ],
)
async def test_every_target_ends_a_connection_on_its_way_in(
    case: Case, target: str, value: str
) -> None:
    credential = Credential(client_id="alice", token_id=5, session_digest="digest")
    slow = make_connection(
        "1", user_id=7, credential=credential, address="192.0.2.7", now=case.clock()
    )
    other = case.arrive("2")
    await case.applied.apply(case.make_request(target=target, value=value))
    await case.applied.apply(case.make_request(target=target, value="203.0.113.9"))
    case.clock.advance(1)
    assert case.join(slow).close_reason == KICKED
    assert (case.join(other).close_reason is None) == (target not in ("node", "all"))


async def test_equal_requests_are_applied_as_one(case: Case) -> None:
    """The last one counts, which ends the connections between the two as well."""
    connections = [case.join(case.arrive("1"))]
    case.clock.advance(30)
    connections.append(case.join(case.arrive("2")))
    requests = [case.make_request() for _ in range(1000)]
    ages = [timedelta(seconds=30)] * 999 + [timedelta(0)]
    assert await case.applied.apply_all(zip(requests, ages, strict=True))
    assert [one.close_reason for one in connections] == [KICKED, KICKED]
    assert case.forgotten == [("client", "alice")]


@pytest.mark.parametrize("target", ["user", "client", "token", "address"])
async def test_many_requests_beside_many_connections_let_other_tasks_run(
    case: Case, target: str
) -> None:
    """A search of all connections for each request would take ten seconds."""
    for number in range(5000):
        case.hub.join(
            make_connection(
                f"{target}{number}",
                client_id=str(number),
                user_id=number,
                credential=Credential(client_id=str(number), token_id=number),
                address=f"10.0.{number // 256}.{number % 256}",
            )
        )
    values = ["10.0.0.9"] if target == "address" else map(str, range(4000, 6000))
    requests = [
        (case.make_request(target=target, value=value), timedelta(0))
        for value in values
    ]
    applying = asyncio.create_task(case.applied.apply_all(requests))
    turns = 0
    while not applying.done():
        turns += 1
        await asyncio.sleep(0)
    assert applying.result()
    assert case.hub.searches <= 1
    # Without a pause all would be one turn.
    assert turns > (1 if len(requests) > 1 else 0)


async def test_requests_are_forgotten_although_nobody_joins(case: Case) -> None:
    recent = RecentRequests("here", 60)
    for number in range(1000):
        request = case.make_request(value=str(number))
        recent.add(AppliedRequest(request=request, applied_at=number, latest=number))
    assert len(recent) == 61
    recent.forget_old(2000)
    assert len(recent) == 0


@pytest.mark.parametrize("spread_seconds", [0, 60])
async def test_one_request_for_all_lets_other_tasks_run(
    case: Case, spread_seconds: float
) -> None:
    """The more connections it ends, the more slices it takes."""
    for number in range(20_000):
        case.join(case.arrive(f"c{number}"))
    request = case.make_request(target="all", value="", spread_seconds=spread_seconds)
    applying = asyncio.create_task(case.applied.apply_all([(request, timedelta())]))
    turns = 0
    while not applying.done():
        turns += 1
        await asyncio.sleep(0)
    assert applying.result()
    assert spread_seconds or all(one.close_reason == KICKED for one in case.hub)
    assert turns > 1
