"""Test the warning, the end and the refresh of credentials that expire."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from channels.db import database_sync_to_async
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.utils import timezone

from connections.access.expiry import ExpiryWatch
from connections.config.auth_sections import ExpiryConfig
from connections.connection.refresh import holds_refresh
from connections.consumers import LimitedSyncJsonConsumer
from connections.credentials.identity import Credential
from connections.credentials.sessions import verify_session
from connections.credentials.tokens import create_access_token, verify_access_token
from connections.credentials.verifier import Verifier
from connections.hub.connection import LiveConnection
from connections.models import AccessToken
from connections.node.node import Node
from connections.storage.database import Database
from connections.testing import FakeClock
from connections.testing.communicators import connect_to, make_config, make_node
from connections.units import format_moment
from tests.connections.background_tasks import finish_tasks
from tests.connections.conversations import Echo, JsonEcho, receive_close, receive_type
from tests.connections.login import log_in
from tests.connections.switchable_database import SwitchableDatabase

EXPIRES_AT = datetime(2030, 1, 1, tzinfo=UTC)


class SpyingSender:
    """Records messages and close reasons."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.close_reasons: list[str] = []

    def end(self, close_reason: Any, ref: str | None, after_ms: int | None) -> None:
        self.close_reasons.append(close_reason.reason)

    def announce(self, close_reason: Any, after_ms: int) -> None: ...

    def send(self, content: dict[str, Any]) -> bool:
        self.sent.append(content)
        return True

    def abort(self) -> None: ...


def make_connection(credential: Credential) -> tuple[LiveConnection, SpyingSender]:
    sender = SpyingSender()
    connection = LiveConnection(
        connection_id="c1",
        client_id=credential.client_id,
        now=0,
        sender=sender,
        credential=credential,
    )
    return connection, sender


@pytest.mark.parametrize(
    ("seconds_before", "is_warned", "is_ended"),
    [(60.001, False, False), (60, True, False), (-9.999, True, False), (-10, 0, True)],
)
def test_the_warning_comes_before_and_the_end_after_the_grace(
    seconds_before: float, is_warned: bool, is_ended: bool
) -> None:
    watch = ExpiryWatch(ExpiryConfig(), None)
    connection, sender = make_connection(
        Credential(client_id="alice", expires_at=EXPIRES_AT)
    )
    for _ in range(3):
        watch.check([connection], EXPIRES_AT - timedelta(seconds=seconds_before))
    assert len(sender.sent) == is_warned
    assert sender.close_reasons == ["token_expired"] * is_ended


def test_a_credential_without_an_end_gets_no_warning() -> None:
    watch = ExpiryWatch(ExpiryConfig(), None)
    connection, sender = make_connection(Credential(client_id="alice"))
    watch.check([connection], datetime.max.replace(tzinfo=UTC))
    assert (sender.sent, sender.close_reasons) == ([], [])


def test_a_new_credential_gets_a_warning_of_its_own() -> None:
    watch = ExpiryWatch(ExpiryConfig(), None)
    connection, sender = make_connection(
        Credential(client_id="alice", expires_at=EXPIRES_AT)
    )
    watch.check([connection], EXPIRES_AT)
    later = EXPIRES_AT + timedelta(hours=1)
    connection.renew(Credential(client_id="alice", expires_at=later))
    watch.check([connection], EXPIRES_AT + timedelta(minutes=30))
    assert (len(sender.sent), sender.close_reasons) == (1, [])
    watch.check([connection], later)
    assert len(sender.sent) == 2


@pytest.mark.parametrize(
    ("moment", "text"),
    [(EXPIRES_AT, "2030-01-01T00:00:00.000Z"), (None, None)],
)
def test_a_moment_is_written_in_utc(moment: datetime | None, text: str | None) -> None:
    assert format_moment(moment) == text


async def test_a_json_consumer_gets_the_warning_and_then_the_close() -> None:
    node = make_node(expiry={"warning_seconds": 60, "grace_seconds": 0})
    expires_at = timezone.now() + timedelta(seconds=30)
    communicator = connect_to(JsonEcho, node)
    communicator.scope["credential"] = Credential(
        client_id="alice", expires_at=expires_at
    )
    await communicator.connect()
    await node.activity.check()
    warning = await receive_type(communicator, "expiring")
    assert warning["expires_at"] == format_moment(expires_at)
    assert 0 < warning["after_ms"] <= 30_000
    live = next(iter(node.hub))
    live.expires_at = timezone.now()
    await node.activity.check()
    assert (await receive_type(communicator, "bye"))["reconnect"] == "new_token"
    assert (await receive_close(communicator))["code"] == 4100
    await communicator.disconnect()


async def test_a_plain_consumer_gets_the_close_alone() -> None:
    node = make_node(expiry={"grace_seconds": 0})
    communicator = connect_to(Echo, node)
    moment = timezone.now()
    communicator.scope["credential"] = Credential(client_id="alice", expires_at=moment)
    await communicator.connect()
    await node.activity.check()
    assert await communicator.receive_output() == {
        "type": "websocket.close",
        "code": 4100,
        "reason": "token_expired",
    }
    await communicator.disconnect()


@pytest.fixture
async def recording() -> AsyncIterator[Node]:
    """A node that checks credentials."""
    database = Database()
    config = make_config(handshake={"failures_per_address_burst": 8})
    node = Node(config, database=database, clock=FakeClock())
    yield node
    await database.close()


async def create(client_id: str = "alice", **values: Any) -> str:
    made = database_sync_to_async(create_access_token)
    token: str = (await made(client_id, **values))[0]
    return token


async def open_with(token: str, node: Node, consumer: Any = JsonEcho) -> Any:
    credential = await database_sync_to_async(verify_access_token)(token)
    communicator = connect_to(consumer, node)
    communicator.scope.update(credential=credential, user=credential.user)
    assert (await communicator.connect())[0]
    return communicator


class SyncEcho(LimitedSyncJsonConsumer):
    def handle_echo(self, content: Any) -> None:
        self.send_json(content)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("consumer", [JsonEcho, SyncEcho])
async def test_a_refresh_changes_the_token_of_the_connection(
    recording: Node, consumer: Any
) -> None:
    soon, later = (timezone.now() + timedelta(minutes=one) for one in (5, 50))
    old, new = await create(expires_at=soon), await create(expires_at=later)
    communicator = await open_with(old, recording, consumer)
    await communicator.send_json_to({"type": "refresh", "token": new})
    answer = await receive_type(communicator, "refreshed")
    assert answer == {"type": "refreshed", "expires_at": format_moment(later)}
    live = next(iter(recording.hub))
    row = await AccessToken.objects.aget(expires_at=later)
    assert (live.token_id, live.expires_at) == (row.pk, later)
    assert communicator.scope["credential"].token_id == row.pk
    assert live.reauthorise_at == recording.clock()
    await communicator.disconnect()


@pytest.mark.django_db(transaction=True)
async def test_a_refresh_to_a_token_without_an_end_has_none(recording: Node) -> None:
    communicator = await open_with(await create(), recording)
    await communicator.send_json_to({"type": "refresh", "token": await create()})
    assert (await receive_type(communicator, "refreshed"))["expires_at"] is None
    await communicator.disconnect()


async def refuse(communicator: WebsocketCommunicator, token: str) -> tuple[str, str]:
    await communicator.send_json_to({"type": "refresh", "token": token})
    error = await receive_type(communicator, "error")
    return error["code"], error["message"]


@pytest.mark.django_db(transaction=True)
async def test_a_refresh_cannot_change_the_client(recording: Node) -> None:
    """The token of another client, of another user, or an unknown one."""
    user = await User.objects.acreate(username="alice")
    other = await User.objects.acreate(username="mallory")
    communicator = await open_with(await create(user=user), recording)
    before = next(iter(recording.hub)).credential
    for values in (
        {"client_id": "bob", "user": user},
        {"client_id": "alice", "user": other},
        {"client_id": "alice"},
    ):
        code, message = await refuse(communicator, await create(**values))
        assert (code, message) == ("invalid_message", "refused: another client's")
    assert next(iter(recording.hub)).credential is before
    assert communicator.scope["user"] == user
    await communicator.disconnect()


@pytest.mark.django_db(transaction=True)
async def test_a_refresh_checks_the_scopes_of_the_token(recording: Node) -> None:
    communicator = await open_with(await create(scopes=["/ws/"]), recording)
    elsewhere = await create(scopes=["/other/"])
    assert "this place" in (await refuse(communicator, elsewhere))[1]
    await communicator.disconnect()


@pytest.mark.django_db(transaction=True)
async def test_a_refused_refresh_gets_an_error_and_leaves_the_connection_open(
    recording: Node,
) -> None:
    communicator = await open_with(await create(), recording)
    expired = await create(expires_at=timezone.now() - timedelta(seconds=1))
    revoked = await create()
    rows = AccessToken.objects.filter(hint=revoked[:6])
    assert len(await database_sync_to_async(rows.revoke)()) == 1
    for token, reason in (
        ("wrong", "unauthenticated"),
        ("\ud800", "unauthenticated"),
        (expired, "token_expired"),
        (revoked, "revoked"),
    ):
        answer = await refuse(communicator, token)
        assert answer == ("invalid_message", f"refused: {reason}")
    await communicator.send_json_to({"type": "echo"})
    assert await receive_type(communicator, "echo")
    await communicator.disconnect()


@pytest.mark.django_db(transaction=True)
async def test_guessing_by_refresh_is_limited_like_guessing_by_handshake(
    recording: Node,
) -> None:
    communicator = await open_with(await create(), recording)
    live = next(iter(recording.hub))
    live.source_address = "192.0.2.7"
    codes = [(await refuse(communicator, f"wrong-{n}"))[0] for n in range(12)]
    assert codes[0] == "invalid_message"
    assert codes[-1] == "rate_limited"
    await communicator.disconnect()


async def test_a_refresh_is_no_activity() -> None:
    clock = FakeClock()
    node = make_node(clock)
    communicator = connect_to(JsonEcho, node)
    await communicator.connect()
    clock.advance(100)
    await refuse(communicator, "anything")
    assert next(iter(node.hub)).idle_seconds(clock()) == 100
    await communicator.send_json_to({"type": "echo", "about": "refresh"})
    await receive_type(communicator, "echo")
    assert next(iter(node.hub)).idle_seconds(clock()) == 0
    await communicator.disconnect()


@pytest.mark.parametrize(
    ("text", "is_expected"),
    [
        ('{"type":"refresh","token":"t"}', True),
        ('{"token": "t", "type": "refresh"}', True),
        ('{"type":"refresh"}', False),
        ('{"type":"refresh","token":7}', False),
        ('{"type":"message","data":{"type":"refresh","token":"t"}}', False),
        ('["refresh"]', False),
        ('"refresh"', False),
        ('{"type":"refresh"', False),
        ("[" * 10_000 + '"refresh"', False),
        (None, False),
    ],
)
def test_a_refresh_is_recognised(text: str | None, is_expected: bool) -> None:
    assert holds_refresh({"type": "websocket.receive", "text": text}) is is_expected


@pytest.mark.django_db
def test_a_session_ends_when_the_database_says(settings: Any) -> None:
    """It does not end two weeks after each read."""
    key = log_in(User.objects.create_user("alice"))
    ends_at = timezone.now() + timedelta(seconds=77)
    Session.objects.update(expire_date=ends_at)
    assert verify_session(key).expires_at == ends_at


@pytest.mark.django_db(transaction=True)
async def test_a_session_extended_over_http_has_not_expired(recording: Node) -> None:
    user = await database_sync_to_async(User.objects.create_user)("alice")
    key = await database_sync_to_async(log_in)(user)
    soon = timezone.now() + timedelta(hours=1)
    await Session.objects.aupdate(expire_date=soon)
    credential = await database_sync_to_async(verify_session)(key)
    connection, sender = make_connection(credential)
    watch = ExpiryWatch(ExpiryConfig(), recording.verifier)

    async def check(moment: datetime) -> None:
        watch.check([connection], moment)
        watch.check([connection], moment)
        await finish_tasks()

    await check(soon)
    assert len(sender.sent) == 1
    later = timezone.now() + timedelta(hours=2)
    await Session.objects.aupdate(expire_date=later)
    await check(soon + timedelta(seconds=10))
    assert (connection.expires_at, sender.close_reasons) == (later, [])
    await Session.objects.all().adelete()
    await check(later + timedelta(seconds=10))
    assert sender.close_reasons == ["token_expired"]


async def test_a_session_is_not_ended_while_the_database_is_away() -> None:
    """Then stale_authorisation_seconds decides."""
    database = SwitchableDatabase()
    database.is_away = True
    session = type("Session", (), {"session_key": "key"})()
    connection, sender = make_connection(
        Credential(client_id="alice", session=session, expires_at=EXPIRES_AT)
    )
    watch = ExpiryWatch(ExpiryConfig(), Verifier(database, FakeClock()))
    watch.check([connection], EXPIRES_AT + timedelta(hours=1))
    await finish_tasks()
    assert sender.close_reasons == []
