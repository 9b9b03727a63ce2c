"""Test that the registry of close reasons is consistent."""

import re

import pytest

from connections import close_codes
from connections.close_codes import (
    APPLICATION,
    CLOSE_REASONS,
    PEER,
    CloseReason,
    Reconnect,
    get_close_reason,
    get_codes,
    get_reason,
    may_send,
)

RECORDED_ONLY = {"network", "lost"}
"""Reasons of 1006, which stands for the absence of a close frame."""


def test_every_code_may_be_sent_or_is_recorded_only() -> None:
    unsendable = {
        one.reason for one in CLOSE_REASONS.values() if not may_send(one.code)
    }
    assert unsendable == RECORDED_ONLY


def test_every_close_reason_is_in_the_registry() -> None:
    """Of two with the same word the registry would lack one."""
    defined = [
        one for one in vars(close_codes).values() if isinstance(one, CloseReason)
    ]
    assert len(defined) == len(CLOSE_REASONS)
    assert all(CLOSE_REASONS[one.reason] is one for one in defined)


@pytest.mark.parametrize("reason", [*CLOSE_REASONS, APPLICATION, PEER])
def test_a_reason_is_a_short_word(reason: str) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", reason)
    assert len(reason) <= 32


@pytest.mark.parametrize(
    "close_reason", CLOSE_REASONS.values(), ids=lambda one: str(one.reason)
)
def test_the_hundred_gives_the_advice(close_reason: CloseReason) -> None:
    """4013 is the exception: return, but never with the same message."""
    hundred = close_reason.code // 100
    if close_reason.reason == "message_too_big":
        assert (close_reason.code, close_reason.reconnect) == (4013, Reconnect.NOW)
    elif hundred == 40:
        assert close_reason.reconnect is Reconnect.NEVER
    elif hundred == 41:
        assert close_reason.reconnect in (Reconnect.LATER, Reconnect.NEW_TOKEN)
    elif hundred == 42:
        assert close_reason.reconnect is Reconnect.NOW
        assert close_reason.resume
    elif hundred == 43:
        assert close_reason.reconnect is Reconnect.ON_ACTION


@pytest.mark.parametrize(
    "close_reason", CLOSE_REASONS.values(), ids=lambda one: str(one.reason)
)
def test_only_returning_clients_get_a_delay(close_reason: CloseReason) -> None:
    if close_reason.after_ms is not None:
        assert close_reason.reconnect in (Reconnect.LATER, Reconnect.NOW)
    if close_reason.reconnect is Reconnect.LATER:
        assert close_reason.after_ms is not None
        assert close_reason.after_ms[0] >= 5_000


def test_bye_has_all_fields() -> None:
    assert close_codes.DRAINING.bye(ref="r1", after_ms=1840) == {
        "type": "bye",
        "code": 4200,
        "reason": "draining",
        "reconnect": "now",
        "after_ms": 1840,
        "resume": True,
        "ref": "r1",
    }


def test_bye_spreads_clients_over_the_whole_span() -> None:
    waits = {close_codes.POOL_FULL.bye()["after_ms"] for _ in range(200)}
    assert len(waits) > 50
    assert min(waits) >= 5_000
    assert max(waits) <= 15_000


def test_bye_has_no_delay_if_the_client_must_not_return() -> None:
    assert close_codes.KICKED.bye()["after_ms"] is None


@pytest.mark.parametrize("code", [999, 1004, 1005, 1006, 1015, 1016, 2999, 5000])
def test_reserved_codes_may_not_be_sent(code: int) -> None:
    assert not may_send(code)


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1011, 1014, 3000, 4000, 4999])
def test_other_codes_may_be_sent(code: int) -> None:
    assert may_send(code)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (None, "closed"),
        (1000, "closed"),
        (1001, "closed"),
        (1006, "network"),
        (1009, "message_too_big"),
        (1011, "peer"),
        (4999, "peer"),
    ],
)
def test_a_peers_code_has_a_reason(code: int | None, reason: str) -> None:
    assert get_reason(code) == reason


def test_a_reason_has_all_the_codes_that_are_recorded_with_it() -> None:
    assert get_codes("closed") == [1000, 1001, 1005]
    assert get_codes("message_too_big") == [4013, 1009]
    assert get_codes("idle") == [4300]
    assert get_codes("application") == []


@pytest.mark.parametrize(
    ("code", "reason", "reconnect"),
    [
        (1000, "closed", Reconnect.NEVER),
        (1001, "network", Reconnect.BACKOFF),
        (1002, "protocol_error", Reconnect.NEVER),
        (1006, "network", Reconnect.BACKOFF),
        (1009, "message_too_big", Reconnect.NOW),
        (1012, "network", Reconnect.BACKOFF),
        (3000, "application", Reconnect.BACKOFF),
        (4003, "forbidden", Reconnect.NEVER),
        (4005, "evicted", Reconnect.NEVER),
        (4077, "application", Reconnect.NEVER),
        (4150, "application", Reconnect.LATER),
        (4277, "application", Reconnect.NOW),
        (4333, "application", Reconnect.ON_ACTION),
        (4999, "application", Reconnect.BACKOFF),
    ],
)
def test_every_code_has_advice(code: int, reason: str, reconnect: Reconnect) -> None:
    close_reason = get_close_reason(code)
    assert (close_reason.reason, close_reason.reconnect) == (reason, reconnect)
    assert (close_reason.after_ms is not None) == (
        reconnect in (Reconnect.LATER, Reconnect.NOW) and reason != "message_too_big"
    )
