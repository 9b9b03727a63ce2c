"""Test the limit of wrong credentials per address."""

import logging

import pytest

from connections.access import failed_attempts
from connections.access.failed_attempts import FailedCredentials
from connections.config.sections import HandshakeConfig
from connections.testing import FakeClock


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
    assert failed.refused_count == 3


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
        failed.record("192.0.2.7")
        failed.is_limited("192.0.2.7")
    assert len(caplog.records) == 1
    clock.advance(5)
    failed.is_limited("192.0.2.7")
    assert len(caplog.records) == 1


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
