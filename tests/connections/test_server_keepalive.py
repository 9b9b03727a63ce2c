import itertools

import pytest

from connections.server.websocket.keepalive import Keepalive
from tests.connections.fake_loop import FakeLoop


class Transport:
    """A client at the other end of a Keepalive, in a time of its own."""

    def __init__(self, *, interval: float = 30, timeout: float = 20) -> None:
        self.loop = FakeLoop()
        self.pings: list[tuple[float, bytes]] = []
        self.round_trips: list[float] = []
        self.died_at: float | None = None
        self.moved_at = 0.0
        self.keepalive = Keepalive(
            interval_seconds=interval,
            timeout_seconds=timeout,
            timers=self.loop,
            owner=self,
        )

    def send_ping(self, payload: bytes) -> None:
        self.pings.append((self.loop.now, payload))

    def has_moved(self, since: float) -> bool:
        return self.moved_at > since

    def record_round_trip(self, seconds: float) -> None:
        self.round_trips.append(seconds)

    def give_up_dead(self) -> None:
        self.died_at = self.loop.now


def test_a_client_that_answers_is_pinged_once_each_interval() -> None:
    line = Transport(timeout=40)
    line.loop.advance(30)
    for _ in range(10):
        line.loop.advance(0.25)
        line.keepalive.on_pong(line.pings[-1][1])
        line.loop.advance(30)
        assert len(line.loop.timers) == 1
    moments = [at for at, _ in line.pings]
    gaps = {round(b - a, 6) for a, b in itertools.pairwise(moments)}
    assert gaps <= {30}
    assert line.died_at is None


def test_the_first_ping_comes_at_a_moment_of_its_own() -> None:
    firsts = []
    for _ in range(50):
        line = Transport()
        line.loop.advance(30)
        firsts.append(line.pings[0][0])
    assert min(firsts) >= 3
    assert max(firsts) <= 30
    assert len(set(firsts)) > 40


def test_without_a_pong_it_is_dead_after_the_timeout() -> None:
    line = Transport()
    line.loop.advance(60)
    assert line.died_at == line.pings[0][0] + 20
    assert len(line.pings) == 1


def test_a_late_pong_within_a_timeout_longer_than_the_interval_is_in_time() -> None:
    line = Transport(interval=10, timeout=60)
    line.loop.advance(10)
    for _ in range(5):
        line.loop.advance(45)
        line.keepalive.on_pong(line.pings[-1][1])
        line.loop.advance(0.001)
    assert line.died_at is None
    assert len(line.loop.timers) == 1


def test_the_round_trip_is_the_last_pongs() -> None:
    line = Transport()
    assert line.keepalive.rtt_seconds is None
    line.loop.advance(30)
    sent_at, payload = line.pings[-1]
    line.loop.now = sent_at + 0.5
    line.keepalive.on_pong(payload)
    assert line.keepalive.rtt_seconds == pytest.approx(0.5)
    assert line.round_trips == [pytest.approx(0.5)]


def test_a_pong_that_answers_no_ping_means_nothing() -> None:
    line = Transport()
    line.loop.advance(30)
    line.keepalive.on_pong(b"")
    line.keepalive.on_pong(b"mine")
    line.loop.advance(20)
    assert line.died_at is not None
    assert line.keepalive.rtt_seconds is None


def test_a_client_whose_bytes_move_is_alive_until_they_stop() -> None:
    line = Transport()
    while not line.pings:
        line.loop.advance(0.5)
    pinged_at = line.pings[-1][0]
    for _ in range(5):
        line.moved_at = line.loop.now
        line.loop.advance(20)
        assert line.died_at is None
    line.loop.advance(40)
    assert line.died_at is not None
    assert line.died_at - line.moved_at <= 40
    assert len(line.pings) == 1
    assert line.died_at > pinged_at + 100


def test_after_the_stop_nothing_happens() -> None:
    line = Transport()
    line.loop.advance(30)
    line.keepalive.stop()
    line.keepalive.on_pong(line.pings[-1][1])
    assert len(line.loop.timers) == 0
