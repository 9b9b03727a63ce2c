"""Test the limit of wrong credentials per address."""

import asyncio
import logging
import math
from datetime import timedelta

import pytest
from channels.db import database_sync_to_async as in_database
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.utils import timezone

from connections.access import failed_attempts
from connections.access.failed_attempts import FailedCredentials
from connections.config.sections import HandshakeConfig
from connections.credentials.tokens import create_access_token
from connections.exceptions import Refused
from connections.middleware import CredentialMiddleware
from connections.node.node import Node
from connections.testing import FakeClock
from connections.testing.communicators import Communicator
from tests.connections.conversations import Echo, receive_close
from tests.connections.login import log_in
from tests.connections.virtual_loop import VirtualTime
from tests.logged import find_records


def make(clock: FakeClock) -> FailedCredentials:
    config = HandshakeConfig(
        failures_per_address_burst=3, failures_per_address_per_minute=6
    )
    return FailedCredentials(config, clock)


def test_an_address_is_limited_after_its_burst_and_free_again() -> None:
    clock = FakeClock()
    failed = make(clock)
    for _ in range(3):
        assert not failed.is_limited("192.0.2.7")
        failed.record("192.0.2.7")
    assert failed.is_limited("192.0.2.7")
    assert not failed.is_limited("192.0.2.8")
    clock.advance(9.9)
    assert failed.is_limited("192.0.2.7")
    clock.advance(0.2)
    assert not failed.is_limited("192.0.2.7")
    failed.record("192.0.2.7")
    assert failed.is_limited("192.0.2.7")


def test_ipv6_counts_by_its_network_and_mapped_addresses_as_ipv4() -> None:
    failed = make(FakeClock())
    for text in ("2001:db8::1", "2001:db8::2", "2001:db8::ffff"):
        failed.record(text)
    for text in ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.7"):
        failed.record(text)
    assert failed.is_limited("2001:db8::3")
    assert not failed.is_limited("2001:db8:0:1::3")
    assert failed.is_limited("192.0.2.7")


def test_memory_is_bounded_and_the_oldest_failure_is_forgotten_first() -> None:
    failed = make(FakeClock())
    for number in range(failed_attempts.MAX_ADDRESSES + 1):
        for _ in range(3):
            failed.record(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(failed) == failed_attempts.MAX_ADDRESSES
    assert not failed.is_limited("10.0.0.0")
    assert failed.is_limited("10.0.0.1")


def test_a_storm_is_logged_rarely(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    failed = make(clock)
    caplog.set_level(logging.INFO)
    for _ in range(100):
        failed.refuse("192.0.2.7")
    assert len(find_records(caplog, "connections.access.failed_attempts")) == 1
    clock.advance(5)
    failed.refuse("192.0.2.7")
    assert len(find_records(caplog, "connections.access.failed_attempts")) == 1
    assert failed.refused_count == 101


def test_simultaneous_failures_are_charged_afterwards() -> None:
    """Many look-ups are under way before the first one fails."""
    clock = FakeClock()
    failed = make(clock)
    for _ in range(33):
        failed.record("192.0.2.7")
    clock.advance(300)
    assert failed.is_limited("192.0.2.7")
    clock.advance(11)
    assert not failed.is_limited("192.0.2.7")


def test_the_charge_is_bounded() -> None:
    clock = FakeClock()
    failed = make(clock)
    for _ in range(10_000):
        failed.record("192.0.2.7")
    clock.advance(201 / 6 * 60)
    assert not failed.is_limited("192.0.2.7")


def test_attempts_of_a_limited_address_wait_in_a_bounded_queue() -> None:
    failed = make(FakeClock())
    for _ in range(3):
        failed.record("192.0.2.7")

    async def attempt() -> float:
        try:
            await failed.wait("192.0.2.7")
        except Refused:
            return math.inf
        return time()

    async def attempt_at_once() -> list[float]:
        return list(await asyncio.gather(*(attempt() for _ in range(1000))))

    with VirtualTime() as time:
        began = time()
        moments = [moment - began for moment in time.run(attempt_at_once())]
        admitted = [moment for moment in moments if moment < math.inf]
        assert moments[0] == 0
        assert admitted == sorted(admitted)
        assert 350 < len(admitted) < 450
        assert max(admitted) <= 2 + 1 / 200
        assert failed.refused_count == 1000 - len(admitted)
        time.advance(60)
        assert time.run(attempt()) < math.inf


def test_as_many_attempts_as_the_server_admits_push_no_right_one_out() -> None:
    """150 wrong ones a second beside a right one each second, for ten seconds."""
    failed = make(FakeClock())
    for _ in range(3):
        failed.record("192.0.2.7")

    async def attempt_steadily() -> None:
        async with asyncio.TaskGroup() as attempts:
            for _ in range(1510):
                attempts.create_task(failed.wait("192.0.2.7"))
                await asyncio.sleep(1 / 151)

    with VirtualTime() as time:
        time.run(attempt_steadily())
    assert failed.refused_count == 0


ADDRESS = "192.0.2.7"


async def shake_hands(node: Node, **headers: str) -> int:
    """Return the close code of a handshake, 0 if it is admitted."""
    communicator = Communicator(CredentialMiddleware(Echo.as_asgi()), "/ws/")
    communicator.scope |= {
        "node": node,
        "client": [ADDRESS, 1],
        "headers": [
            (name.encode(), value.encode("latin-1")) for name, value in headers.items()
        ],
    }
    await communicator.connect()
    if len(node.hub):
        await communicator.disconnect()
        return 0
    code: int = (await receive_close(communicator))["code"]
    return code


async def try_token(node: Node, token: str) -> int:
    return await shake_hands(node, authorization=f"Bearer {token}")


@pytest.mark.django_db(transaction=True)
async def test_a_right_token_is_admitted_beside_wrong_ones(recording: Node) -> None:
    """A wrong one gets 4129 after the burst, and its address stays limited."""
    token, _ = await in_database(create_access_token)("alice")
    burst = recording.config.handshake.failures_per_address_burst
    codes = [await try_token(recording, f"wrong-{n}") for n in range(burst + 5)]
    assert codes == [4001] * burst + [4129] * 5
    for number in range(5):
        assert await try_token(recording, token) == 0
        assert await try_token(recording, f"other-{number}") == 4129


@pytest.mark.django_db(transaction=True)
async def test_wrong_tokens_at_once_leave_room_for_the_right_one(
    recording: Node,
) -> None:
    token, _ = await in_database(create_access_token)("alice")
    for _ in range(40):
        recording.gate.failures.record(ADDRESS)
    wrong = [try_token(recording, f"wrong-{n}") for n in range(20)]
    codes = await asyncio.gather(*wrong)
    assert set(codes) == {4129}
    assert await try_token(recording, token) == 0


@pytest.mark.django_db(transaction=True)
async def test_what_has_ended_is_no_wrong_credential(recording: Node) -> None:
    """A browser sends an old session cookie by itself; programs send old tokens."""
    past = timezone.now() - timedelta(seconds=1)
    create = in_database(create_access_token)
    expired, _ = await create("alice", expires_at=past)
    revoked, row = await create("bob")
    row.revoked_at = past
    await row.asave()
    token, _ = await create("carol")
    ticket = await recording.verifier.issue_ticket(
        await recording.verifier.verify_token(token), ""
    )
    await recording.verifier.verify_ticket(ticket, "")
    user = await in_database(User.objects.create_user)("alice")
    key = await in_database(log_in)(user)
    await Session.objects.all().adelete()
    burst = recording.config.handshake.failures_per_address_burst
    for _ in range(burst + 1):
        assert await try_token(recording, expired) == 4100
        assert await try_token(recording, revoked) == 4009
        assert await shake_hands(recording, cookie=f"sessionid={key}") == 4001
        assert await shake_hands(recording, cookie="sessionid=nonsense") == 4001
        with pytest.raises(Refused) as refused:
            async with recording.gate.limit_guesses(ADDRESS):
                await recording.verifier.verify_ticket(ticket, "")
        assert refused.value.close_reason.code == 4001
    assert not recording.gate.failures.is_limited(ADDRESS)


@pytest.mark.django_db(transaction=True)
async def test_a_session_of_a_limited_address_is_verified(recording: Node) -> None:
    user = await in_database(User.objects.create_user)("alice")
    key = await in_database(log_in)(user)
    for _ in range(40):
        recording.gate.failures.record(ADDRESS)
    assert await shake_hands(recording, cookie=f"sessionid={key}") == 0
    assert await shake_hands(recording, cookie="sessionid=nonsense") == 4001
