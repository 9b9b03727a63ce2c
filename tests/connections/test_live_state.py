"""A node samples its connections while a dashboard is open."""

import json
import zlib
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from connections import close_codes
from connections.hub.connection import LiveConnection
from connections.hub.hub import Hub
from connections.models import NodePicture
from connections.node.live_state import (
    ConnectionState,
    LiveState,
    LiveStateSampler,
    classify,
    decode,
    encode,
    request_samples,
)
from connections.node.top import TopCounter, decode_report, rank
from connections.storage.database import Database
from connections.testing import FakeClock
from connections.testing.communicators import make_config
from tests.connections.live_connections import make_connection
from tests.connections.rows import make_node_row

HOUR = timedelta(hours=1)


class StubTransport:
    """A transport whose state the test sets."""

    unsent_bytes = 0
    rtt_seconds: float | None = None
    close_reason = None

    def abort(self) -> None:
        raise AssertionError("a sample must not abort")


def make_live(now: float, **values: Any) -> LiveConnection:
    return make_connection("c1", now=now, **values)


def classify_after(seconds: float, live: LiveConnection, **options: Any) -> LiveState:
    options = {"is_draining": False, **options}
    return classify(live, 1000 + seconds, make_config(), **options)


def test_activity_decides_for_a_healthy_connection() -> None:
    live = make_live(1000)
    assert classify_after(9, live) == LiveState.ACTIVE
    assert classify_after(11, live) == LiveState.QUIET
    assert classify_after(239, live) == LiveState.QUIET
    assert classify_after(241, live) == LiveState.NEAR_IDLE
    live.busy_count = 1
    assert classify_after(241, live) == LiveState.ACTIVE


def test_the_worst_state_that_applies_is_shown() -> None:
    transport = StubTransport()
    live = make_live(1000, transport=transport)
    live.limited_at = 1000
    assert classify_after(1, live) == LiveState.LIMITED
    assert classify_after(11, live) == LiveState.QUIET
    transport.unsent_bytes = 1_000_001
    assert classify_after(1, live) == LiveState.SLOW
    assert classify_after(1, live, is_draining=True) == LiveState.DRAINING
    live.end(close_codes.KICKED)
    assert classify_after(1, live) == LiveState.DRAINING


def test_a_decoded_sample_equals_the_encoded_one() -> None:
    states = [
        ConnectionState(
            "c1", "<script>", "7", "3", "ws/", "::1", 1.5, "quiet", 3.0, rtt_ms=1.5
        ),
        ConnectionState("c2", "bob", "", "", "ws/", "", 2.0, "active", 0.0),
    ]
    assert decode(encode(states)) == states
    assert decode(encode([])) == []


def test_a_sample_of_another_version_is_unreadable() -> None:
    strange = zlib.compress(json.dumps([["connection_id"], [["c1"]]]).encode())
    assert decode(strange) is None


@pytest.mark.django_db(transaction=True)
async def test_samples_are_taken_only_while_requested() -> None:
    moment = timezone.now()
    clock, hub, database = FakeClock(), Hub(), Database()
    live = make_live(clock())
    hub.join(live)
    sampler = LiveStateSampler(
        hub=hub,
        database=database,
        config=make_config(),
        node_id="n1",
        top=TopCounter(hub),
        is_draining=lambda: False,
        clock=clock,
    )
    pictures = NodePicture.objects.filter(node_id="n1")
    try:
        await database.write(make_node_row)
        await sampler.sample()
        assert not await database.read(pictures.exists)
        await database.write(request_samples)
        await sampler.sample()
        picture = await database.read(pictures.get)
        (first,) = decode(bytes(picture.content)) or []
        assert (first.connection_id, first.in_per_second) == ("c1", 0.0)
        # The ranks are of the same moment, whenever the top was counted before.
        assert picture.top is not None
        report = decode_report(bytes(picture.top))
        assert report is not None
        ranks = rank([report], "client", "connections", minutes=1, limit=1)
        assert [row.key for row in ranks.rows] == [live.client_id]
        live.messages_in += 6
        clock.advance(2)
        await sampler.sample()
        picture = await database.read(pictures.get)
        (second,) = decode(bytes(picture.content)) or []
        assert (second.messages_in, second.in_per_second) == (6, 3.0)
        await database.write(lambda: pictures.update(wanted_at=moment - HOUR))
        clock.advance(1)
        await sampler.sample()
        assert (await database.read(pictures.get)).content == b""
    finally:
        await database.close()
