from typing import Any

import pytest

from connections.config.loader import WebSocketConfig
from connections.config.sections import HandshakeConfig
from connections.server.admission import Admission, PendingHandshakes
from connections.testing import FakeClock
from tests.logged import find_records


class Handshake:
    """One in progress, as the server's channels and sockets are."""

    def __init__(self) -> None:
        self.is_cut_off = False

    def cut_off(self) -> None:
        self.is_cut_off = True


def make(clock: FakeClock | None = None, **handshake: Any) -> Admission:
    total = handshake.pop("total", 1000)
    config = WebSocketConfig(
        max_total_connections=total, handshake=HandshakeConfig(**handshake)
    )
    return Admission(config, clock or FakeClock())


def begin(admission: Admission, address: str = "192.0.2.1") -> str:
    """Begin a handshake; return why it was refused, or nothing."""
    refusal = admission.begin_handshake(Handshake(), address)
    return refusal.reason if refusal else ""


def test_a_slow_head_goes_when_too_many_come_from_its_address() -> None:
    """The newest of an address is never the one that suffers."""
    admission = make(per_address_pending=2)
    heads = [Handshake() for _ in range(4)]
    other = Handshake()
    admission.begin_head(other, "192.0.2.2")
    for head in heads:
        admission.begin_head(head, "192.0.2.1")
    assert [head.is_cut_off for head in heads] == [True, True, False, False]
    assert not other.is_cut_off


def test_a_head_that_is_whole_does_not_count() -> None:
    admission = make(per_address_pending=2)
    heads = [Handshake() for _ in range(4)]
    for head in heads:
        admission.begin_head(head, "192.0.2.1")
        admission.end_head(head)
    assert not any(head.is_cut_off for head in heads)


def test_a_flood_of_heads_drops_no_upload() -> None:
    """Uploads have bounds of their own, and the oldest of them goes."""
    admission = make(per_address_pending=2, max_pending=3)
    uploads = [Handshake() for _ in range(3)]
    heads = [Handshake() for _ in range(4)]
    for upload in uploads[:2]:
        admission.begin_head(upload, "192.0.2.1")
        admission.begin_body(upload, "192.0.2.1")
    for head in heads:
        admission.begin_head(head, None)
    assert [head.is_cut_off for head in heads] == [True, False, False, False]
    assert not any(upload.is_cut_off for upload in uploads)
    admission.end_head(uploads[1])
    admission.begin_body(uploads[2], "192.0.2.1")
    assert not any(upload.is_cut_off for upload in uploads)
    admission.begin_body(Handshake(), "192.0.2.1")
    assert [upload.is_cut_off for upload in uploads] == [True, False, False]


def test_heads_of_a_trusted_proxy_count_only_in_all() -> None:
    admission = make(per_address_pending=2, max_pending=5)
    heads = [Handshake() for _ in range(6)]
    for head in heads:
        admission.begin_head(head, None)
    assert [head.is_cut_off for head in heads] == [True] + [False] * 5


def test_a_whole_handshake_beyond_the_bound_of_its_address_is_refused() -> None:
    admission = make(per_address_pending=2)
    first = Handshake()
    assert admission.begin_handshake(first, "192.0.2.1") is None
    assert begin(admission) == ""
    assert begin(admission) == "pending"
    assert begin(admission, "192.0.2.2") == ""
    admission.end_handshake(first)
    assert begin(admission) == ""
    assert admission.refusals == {"pending": 1}


def test_the_rate_of_an_address_comes_back_with_time() -> None:
    clock = FakeClock()
    admission = make(clock, per_address_per_second=0.5, per_address_burst=2)
    assert [begin(admission) for _ in range(3)] == ["", "", "rate"]
    refusal = admission.begin_handshake(Handshake(), "192.0.2.1")
    assert refusal is not None
    assert refusal.retry_after_seconds == 2
    clock.advance(2)
    assert [begin(admission) for _ in range(2)] == ["", "rate"]


def test_clients_without_an_address_share_no_limit() -> None:
    """They come over a Unix socket whose proxy names none."""
    admission = make(per_address_burst=1, per_address_pending=1)
    assert [begin(admission, "") for _ in range(3)] == ["", "", ""]


def test_the_addresses_of_one_network_of_ipv6_are_one() -> None:
    admission = make(per_address_burst=1)
    assert begin(admission, "2001:db8::1") == ""
    assert begin(admission, "2001:db8::ffff") == "rate"
    assert begin(admission, "2001:db8:0:1::1") == ""


@pytest.mark.parametrize(("total", "most"), [(10, 60), (100, 150), (1000, 1100)])
def test_far_over_the_limit_is_a_tenth_or_fifty(total: int, most: int) -> None:
    admission = make(total=total)
    admission.open_count = most - 1
    assert begin(admission) == ""
    admission.open_count = most
    assert begin(admission) == "overloaded"


def test_what_waits_for_an_answer_does_not_refuse_a_newcomer() -> None:
    """Beyond the bound the oldest is answered instead."""
    admission = make(max_pending=3)
    waiting = [Handshake() for _ in range(4)]
    for index, handshake in enumerate(waiting):
        address = f"192.0.2.{index}"
        assert admission.begin_handshake(handshake, address) is None
    assert [one.is_cut_off for one in waiting] == [True, False, False, False]


def test_only_the_node_itself_is_a_reason_for_503() -> None:
    """A proxy gives up on a node after 503, for every client."""
    full, draining = make(total=10), make()
    full.open_count = 60
    draining.is_draining = True
    pending, fast = make(per_address_pending=1), make(per_address_burst=1)
    for admission in (pending, fast):
        begin(admission)
    refusals = [
        admission.begin_handshake(Handshake(), "192.0.2.1")
        for admission in (full, draining, pending, fast)
    ]
    found = {one.reason: one.status for one in refusals if one is not None}
    assert found == {"overloaded": 503, "draining": 503, "pending": 429, "rate": 429}


def test_nobody_is_admitted_while_draining() -> None:
    admission = make()
    admission.is_draining = True
    assert begin(admission) == "draining"


def test_refusals_are_logged_seldom(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    admission = make(clock, per_address_burst=1, per_address_per_second=0.01)
    for _ in range(1000):
        begin(admission)
    clock.advance(11)
    begin(admission)
    said = find_records(caplog, "connections.server.admission")
    assert [record.args for record in said] == [(1, "rate"), (999, "rate")]


def test_buckets_of_many_addresses_are_forgotten() -> None:
    admission = make(per_address_burst=1, per_address_per_second=0.01)
    addresses = [f"10.0.{number >> 8}.{number & 255}" for number in range(10_001)]
    for address in addresses:
        begin(admission, address)
    assert begin(admission, addresses[-1]) == "rate"
    assert begin(admission, addresses[0]) == ""


def test_pending_handshakes_leave_nothing_behind() -> None:
    pending = PendingHandshakes()
    handshakes = [Handshake() for _ in range(3)]
    for handshake in handshakes:
        pending.add(handshake, "a")
    assert pending.oldest() is pending.oldest("a") is handshakes[0]
    for handshake in handshakes:
        pending.remove(handshake)
        pending.remove(handshake)
    assert len(pending) == pending.count("a") == 0
    with pytest.raises(KeyError):
        pending.oldest("a")


def test_an_address_that_was_refused_is_known_for_a_while() -> None:
    clock = FakeClock()
    admission = make(clock, per_address_burst=1, per_address_per_second=0.01)
    assert not begin(admission, "2001:db8::1")
    assert not admission.was_refused("2001:db8::1")
    assert begin(admission, "2001:db8::1") == "rate"
    # Another address of the same network, which the limits count as one.
    assert admission.was_refused("2001:db8::2")
    assert not admission.was_refused("192.0.2.1")
    clock.advance(60)
    assert not admission.was_refused("2001:db8::1")


def test_a_handshake_without_an_answer_counts_as_refused() -> None:
    """So does the oldest one, which makes room."""
    admission = make(max_pending=1)
    late, other = Handshake(), Handshake()
    admission.begin_handshake(late, "192.0.2.1")
    assert not admission.was_refused("192.0.2.1")
    admission.note_refusal(late)
    admission.end_handshake(late)
    assert admission.was_refused("192.0.2.1")
    admission.begin_handshake(other, "192.0.2.2")
    admission.begin_handshake(Handshake(), "192.0.2.3")
    assert other.is_cut_off
    assert admission.was_refused("192.0.2.2")
    assert not admission.was_refused("192.0.2.3")
    admission.note_refusal(other)


def test_clients_without_an_address_are_not_refused_together() -> None:
    admission = make()
    late = Handshake()
    admission.begin_handshake(late, "")
    admission.note_refusal(late)
    assert not admission.was_refused("")
