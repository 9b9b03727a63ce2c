"""Test the flight record of a connection."""

from typing import Any

import pytest

from connections import close_codes
from connections.consumers import LimitedJsonConsumer
from connections.hub.flight_recorder import FlightRecord, is_worth_keeping
from connections.testing import FakeClock
from connections.testing.communicators import connect_to, make_node
from tests.connections.conversations import receive_type


class Clumsy(LimitedJsonConsumer):
    """Raises an exception on request."""

    async def handle_crash(self, content: dict[str, Any]) -> None:
        raise ArithmeticError("planted, with a secret")


def describe_words(flight: FlightRecord) -> list[str]:
    return [one["event"] for one in flight.describe(0)]


def test_moments_count_from_the_handshake() -> None:
    clock = FakeClock()
    since = clock()
    flight = FlightRecord(clock)
    clock.advance(1.5)
    flight.record("slot_taken")
    clock.advance(2)
    flight.record("left", "network")
    assert flight.describe(since) == [
        {"after_seconds": 1.5, "event": "slot_taken"},
        {"after_seconds": 3.5, "event": "left", "detail": "network"},
    ]


def test_the_last_fifty_stay() -> None:
    flight = FlightRecord(FakeClock())
    for number in range(60):
        flight.record("event", str(number))
    details = [one["detail"] for one in flight.describe(0)]
    assert details == [str(number) for number in range(10, 60)]


def test_equal_events_in_a_row_take_one_place() -> None:
    flight = FlightRecord(FakeClock())
    flight.record("slot_taken")
    for _ in range(1000):
        flight.record("rate_limited")
    flight.record("left", "rate_limited")
    assert [one.get("count", 1) for one in flight.describe(0)] == [1, 1000, 1]


@pytest.mark.parametrize(
    ("reason", "errors", "is_kept"),
    [
        ("closed", 0, False),
        ("evicted", 0, False),
        ("draining", 0, False),
        ("closed", 1, True),
        ("dead", 0, True),
        ("network", 0, True),
        ("rate_limited", 0, True),
        ("internal_error", 3, True),
    ],
)
def test_records_of_planned_ends_are_not_kept(
    reason: str, errors: int, is_kept: bool
) -> None:
    assert is_worth_keeping(reason, errors) is is_kept


async def test_a_connection_records_its_events() -> None:
    """It records ids and reasons, and no data of the client."""
    node = make_node(errors={"budget": 2})
    communicator = connect_to(Clumsy, node)
    await communicator.connect()
    (connection,) = node.hub
    refs = []
    for _ in range(2):
        await communicator.send_json_to({"type": "crash"})
        refs.append((await receive_type(communicator, "error"))["ref"])
    bye = await receive_type(communicator, "bye")
    assert bye["ref"] == refs[-1]
    described = connection.flight.describe(connection.arrived)
    assert [(one["event"], one.get("detail")) for one in described] == [
        ("authorised", None),
        ("slot_taken", None),
        *[("handler_failed", ref) for ref in refs],
        ("end_asked", "internal_error"),
    ]
    assert "secret" not in str(described)
    await communicator.disconnect()
    assert describe_words(connection.flight)[-1] == "left"


async def test_bye_has_a_ref() -> None:
    """Without an error it is the id of the connection."""
    node = make_node()
    communicator = connect_to(Clumsy, node)
    await communicator.connect()
    (connection,) = node.hub
    connection.end(close_codes.KICKED)
    bye = await receive_type(communicator, "bye")
    assert bye["ref"] == connection.connection_id
    await communicator.disconnect()
