"""One connection's failure stops no pass over the others."""

import logging
from datetime import UTC, datetime, timedelta

import pytest
from django.test import override_settings

from connections import close_codes
from connections.access.expiry import ExpiryWatch
from connections.config.auth_sections import ExpiryConfig
from connections.credentials.identity import Credential
from connections.credentials.recheck import AuthorisationSnapshot, find_close_reasons
from connections.hub.connection import LiveConnection
from connections.hub.hub import Hub
from connections.testing.communicators import make_node
from connections.units import as_utc, format_moment
from tests.connections.live_connections import make_connection

LAST_MOMENT = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def make_hub(*client_ids: str) -> Hub:
    hub = Hub()
    for client_id in client_ids:
        hub.join(make_connection(client_id, client_id=client_id))
    return hub


def test_a_failure_is_counted_and_logged_once_and_the_others_are_visited(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub, failures, visited = make_hub("alice", "bob", "carol"), list[str](), list[str]()
    hub.on_failure = failures.append

    def act(connection: LiveConnection) -> None:
        if connection.client_id == "bob":
            raise OverflowError("date value out of range")
        visited.append(connection.client_id)

    for _ in range(2):
        hub.for_each("The check", act)
    assert visited == ["alice", "carol"] * 2
    assert failures == ["The check"] * 2
    (record,) = caplog.records
    assert record.levelno == logging.ERROR and "The check failed for" in record.msg % (
        record.args
    )
    hub.for_each("The check", lambda connection: None)
    assert caplog.records[-1].getMessage() == "The check succeeds again"


async def test_a_credential_without_end_keeps_nobody_from_idling_out() -> None:
    node = make_node(idle_timeout_seconds=60)
    forever = make_connection(
        "forever",
        client_id="alice",
        credential=Credential(client_id="alice", expires_at=LAST_MOMENT),
    )
    quiet = make_connection("quiet", client_id="bob")
    for connection in (forever, quiet):
        node.hub.join(connection)
    await node.advance(61)
    assert forever.close_reason is close_codes.IDLE
    assert quiet.close_reason is close_codes.IDLE
    assert not node.counters.failures


@pytest.mark.parametrize("moment", [LAST_MOMENT, LAST_MOMENT.replace(year=1)])
def test_moments_at_the_ends_of_time_are_compared(moment: datetime) -> None:
    watch = ExpiryWatch(ExpiryConfig(), None)
    connection = make_connection(
        "forever",
        client_id="alice",
        credential=Credential(client_id="alice", expires_at=moment),
    )
    watch.check([connection], datetime.now(UTC))
    is_over = moment.year == 1
    assert (connection.close_reason is close_codes.TOKEN_EXPIRED) is is_over


@override_settings(USE_TZ=False, TIME_ZONE="Asia/Kathmandu")
def test_a_naive_moment_is_in_the_projects_time_zone() -> None:
    moment = datetime(2026, 1, 1, 5, 45)
    assert as_utc(moment) == datetime(2026, 1, 1, tzinfo=UTC)
    assert format_moment(moment) == "2026-01-01T00:00:00.000Z"


def test_a_moment_that_cannot_be_moved_to_utc_stays() -> None:
    last = datetime.max.replace(tzinfo=UTC) - timedelta(hours=1)
    assert as_utc(last) == last


@pytest.mark.django_db
def test_a_foreign_user_key_ends_no_other_connection() -> None:
    """`auth0|1` is no key of the user model, and one query reads all users."""
    reasons = find_close_reasons(
        [
            AuthorisationSnapshot(connection_id="ours"),
            AuthorisationSnapshot(connection_id="foreign", user_id="auth0|1"),
        ]
    )
    assert "ours" not in reasons
