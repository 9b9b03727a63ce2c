"""One connection's failure stops no pass over the others."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.contrib.auth.backends import BaseBackend
from django.contrib.auth.models import User
from django.contrib.sessions.backends.cache import SessionStore as CacheSession
from django.test import Client, override_settings

from connections import close_codes
from connections.access.expiry import ExpiryWatch
from connections.close_codes import CloseReason
from connections.config.auth_sections import ExpiryConfig
from connections.config.sections import RecorderConfig
from connections.credentials.identity import Credential
from connections.credentials.recheck import AuthorisationSnapshot, find_close_reasons
from connections.credentials.requirements import Requirements
from connections.credentials.tokens import create_access_token, verify_access_tokens
from connections.exceptions import DatabaseUnavailable
from connections.hub.connection import LiveConnection
from connections.hub.hub import Hub
from connections.metrics.steps import PeriodicSteps
from connections.models import AccessToken, Connection
from connections.node.extensions import NodeExtensions
from connections.node.periodic import run_parts
from connections.node.recorder import Recorder
from connections.passes import Passes
from connections.server.drain import drain
from connections.storage.database import Database
from connections.testing import FakeClock
from connections.testing.communicators import make_node
from connections.units import as_utc, format_moment
from sessions_history.tails import Tail
from tests.connections.drained_server import FakeServer
from tests.connections.live_connections import SilentSender, make_connection
from tests.logged import find_records

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
    hub.passes.on_failure = failures.append

    def act(connection: LiveConnection) -> None:
        if connection.client_id == "bob":
            raise OverflowError("date value out of range")
        visited.append(connection.client_id)

    for _ in range(2):
        hub.for_each("The check", act)
    assert visited == ["alice", "carol"] * 2
    assert failures == ["The check"] * 2
    (record,) = find_records(caplog, "connections.passes")
    assert record.levelno == logging.ERROR and "The check failed for" in record.msg % (
        record.args
    )
    hub.for_each("The check", lambda connection: None)
    last = find_records(caplog, "connections.passes")[-1]
    assert last.getMessage() == "The check succeeds again"


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


# A drain


class BrokenSender(SilentSender):
    """A sender that raises, after its connection has left where it is aborted."""

    def __init__(self, leave: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self._leave = leave

    def announce(self, close_reason: CloseReason, after_ms: int) -> None:
        raise ConnectionResetError("the socket is gone")

    def send(self, content: dict[str, Any]) -> bool:
        raise ConnectionResetError("the socket is gone")

    def abort(self) -> None:
        self._leave()
        raise ConnectionResetError("the socket is gone")


class LeavingSender(SilentSender):
    """A sender whose connection leaves when it is aborted."""

    def __init__(self, leave: Callable[[], object]) -> None:
        super().__init__()
        self._leave = leave
        self.announced = False

    def announce(self, close_reason: CloseReason, after_ms: int) -> None:
        self.announced = True

    def abort(self) -> None:
        self._leave()


async def test_a_drain_ends_all_connections_though_one_raises() -> None:
    node = make_node()
    for name in ("1", "2", "3"):
        connection = make_connection(name)
        kind = BrokenSender if name == "2" else LeavingSender
        connection.sender = kind(partial(node.hub.leave, connection))
        node.hub.join(connection)
    others = [one for one in node.hub if isinstance(one.sender, LeavingSender)]
    node.skip_grace()
    await node.drain()
    assert len(node.hub) == 0
    assert [getattr(one.sender, "announced", None) for one in others] == [True, True]
    assert {"The drain", "The abort after a drain"} <= node.counters.failures.keys()


async def test_a_server_drains_to_its_end_though_sockets_raise() -> None:
    server = FakeServer(grace_seconds=1, broken=1)
    await drain(server)  # type: ignore[arg-type]
    assert [one.calls for one in server.ports] == [["stop"]] * 3
    assert [one.calls for one in server.http_channels] == [["close"]] * 3
    assert [one.calls for one in server.websockets] == [["end", "end", "abort"]] * 3
    assert server.node.has_stopped
    assert server.node.counters.failures.keys() == {
        "The close of a port",
        "The close of idle HTTP connections",
        "The drain of others",
        "The close of WebSockets",
        "The abort of WebSockets",
    }


class Extension:
    """An extension of another package; its first call raises."""

    def __init__(self, calls: list[str]) -> None:
        self._calls = calls

    async def drain(self) -> None:
        self._record("drain")

    async def stop(self) -> None:
        self._record("stop")

    def _record(self, name: str) -> None:
        self._calls.append(name)
        if len(self._calls) % 2:
            raise RuntimeError("the first one is broken")


async def test_every_extension_drains_and_stops() -> None:
    hub, calls = Hub(), list[str]()
    extensions = NodeExtensions(hub)
    extensions.join(Extension(calls))
    extensions.join(Extension(calls))
    await extensions.drain()
    await extensions.stop()
    assert calls == ["drain", "drain", "stop", "stop"]


# Passes over the database


@pytest.mark.django_db
def test_a_user_whose_check_raises_hides_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A project's get_session_auth_hash() may raise for one user."""
    snapshots = []
    for name in ("alice", "bob"):
        user = User.objects.create_user(name)
        client = Client()
        client.force_login(user)
        key = client.session.session_key
        snapshots.append(
            AuthorisationSnapshot(connection_id=name, user_id=user.pk, session_key=key)
        )
    User.objects.filter(username="bob").update(is_active=False)

    def get_hash(user: User) -> str:
        raise KeyError(user.username)

    monkeypatch.setattr(User, "get_session_auth_hash", get_hash)
    found = find_close_reasons(snapshots)
    assert isinstance(found["alice"], KeyError)
    assert found["bob"] is close_codes.DEACTIVATED


class SessionStore(CacheSession):
    """A session engine that cannot read one session."""

    def load(self) -> dict[str, Any]:
        if self.session_key == "unreadable":
            raise KeyError(self.session_key)
        return super().load()


@pytest.mark.django_db
def test_a_session_that_cannot_be_read_hides_no_other(settings: Any) -> None:
    settings.SESSION_ENGINE = __name__
    user = User.objects.create_user("alice")
    found = find_close_reasons(
        [
            AuthorisationSnapshot(connection_id=key, user_id=user.pk, session_key=key)
            for key in ("unreadable", "unknown-to-all")
        ]
    )
    assert isinstance(found["unreadable"], KeyError)
    assert found["unknown-to-all"] is close_codes.LOGGED_OUT


@pytest.mark.django_db
def test_a_user_key_that_the_database_cannot_hold_hides_no_other() -> None:
    users = [User.objects.create_user(name) for name in ("alice", "bob")]
    snapshots = [
        AuthorisationSnapshot(connection_id=str(key), user_id=key)
        for key in (users[0].pk, 2**70, users[1].pk)
    ]
    assert find_close_reasons(snapshots) == {str(2**70): close_codes.DEACTIVATED}


class Choosy(BaseBackend):
    """A permission backend that raises for one user and refuses another."""

    def has_perm(self, user: Any, perm: str, obj: Any = None) -> bool:
        if user.get_username() == "alice":
            raise KeyError("alice")
        return False


@pytest.mark.django_db
def test_a_permission_that_cannot_be_read_hides_no_other(settings: Any) -> None:
    settings.AUTHENTICATION_BACKENDS = [f"{__name__}.Choosy"]
    requirements = Requirements.read("auth.view_user", ())
    found = find_close_reasons(
        [
            AuthorisationSnapshot(
                connection_id=name,
                user_id=User.objects.create_user(name).pk,
                requirements=requirements,
            )
            for name in ("alice", "bob")
        ]
    )
    assert isinstance(found["alice"], KeyError)
    assert found["bob"] is close_codes.FORBIDDEN


@pytest.mark.django_db
def test_a_token_whose_row_cannot_be_read_hides_no_other() -> None:
    tokens = [create_access_token(name)[0] for name in ("alice", "bob")]
    AccessToken.objects.filter(client_id="alice").update(scopes=5)
    alice, bob = verify_access_tokens(tokens)
    assert isinstance(alice, TypeError)
    assert isinstance(bob, Credential)


@pytest.mark.django_db(transaction=True)
async def test_a_record_that_cannot_be_made_loses_no_other() -> None:
    database, passes = Database(), Passes()
    failures = list[str]()
    passes.on_failure = failures.append
    recorder = Recorder(
        node_id="n" * 32,
        config=RecorderConfig(),
        database=database,
        clock=lambda: 1.0,
        passes=passes,
    )
    broken = make_connection("broken", now=float("-inf"))
    for connection in (make_connection("1"), broken, make_connection("2")):
        recorder.record_change(connection)
    await recorder.flush()
    await database.close()
    found = Connection.objects.order_by("connection_id")
    assert [one.connection_id async for one in found] == ["1", "2"]
    assert failures == ["The record of a connection"]
    assert recorder.pending == 0


async def test_a_part_of_the_beat_that_fails_stops_no_other() -> None:
    done, failures = list[str](), list[str]()
    passes, steps = Passes(failures.append), PeriodicSteps(FakeClock())

    async def fail() -> None:
        raise KeyError("x")

    async def succeed() -> None:
        done.append("polled")

    parts = (("The heartbeat", fail), ("The poll of bans", succeed))
    assert not await run_parts(parts, passes, steps)
    assert (done, failures) == (["polled"], ["The heartbeat"])

    async def lose_database() -> None:
        raise DatabaseUnavailable("gone")

    with pytest.raises(DatabaseUnavailable):
        await run_parts((("The heartbeat", lose_database), parts[1]), passes, steps)
    assert done == ["polled"]


def test_a_subscriber_that_raises_keeps_no_other_asleep() -> None:
    tail, woken = Tail("s", Passes(), on_doubt=print), list[str]()

    def fail() -> None:
        raise RuntimeError("closed")

    tail.subscribers = {1: fail, 2: lambda: woken.append("second")}
    tail.notify()
    assert woken == ["second"]
