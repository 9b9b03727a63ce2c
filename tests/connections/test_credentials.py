"""Test tokens and sessions, with the database there and away."""

import hashlib
import secrets
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from channels.db import database_sync_to_async
from django.contrib.auth import BACKEND_SESSION_KEY
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from connections.connection.scope import bound_client_id
from connections.credentials.identity import Credential, check_scope
from connections.credentials.sessions import digest_session_key, verify_session
from connections.credentials.tokens import (
    create_access_token,
    issue,
    verify_access_token,
)
from connections.credentials.verifier import Verifier
from connections.exceptions import DatabaseUnavailable, Refused
from connections.models import AccessToken
from connections.testing import FakeClock
from tests.connections.login import log_in
from tests.connections.switchable_database import SwitchableDatabase


def refusal(verify: Callable[[str], Any], secret: str) -> str:
    with pytest.raises(Refused) as refused:
        verify(secret)
    return refused.value.close_reason.reason


@pytest.mark.django_db
def test_a_token_gives_its_client_and_user() -> None:
    user = User.objects.create_user("alice")
    token, row = create_access_token("alice-phone", user=user)
    credential = verify_access_token(token)
    assert (credential.client_id, credential.user) == ("alice-phone", user)
    assert credential.token_id == row.pk


@pytest.mark.django_db
@pytest.mark.parametrize(
    "client_id",
    ["user:{pk}", "jwt:alice", "address:192.0.2.7", "connection:1", "token:user:{pk}"],
)
def test_a_token_has_no_name_of_another_kind_of_client(client_id: str) -> None:
    """A row that an older version created is a client of its own."""
    client_id = client_id.format(pk=User.objects.create_user("alice").pk)
    with pytest.raises(ValueError, match="reserved"):
        create_access_token(client_id)
    row = AccessToken(client_id=client_id)
    assert verify_access_token(issue(row)).client_id == f"token:{client_id}"


@pytest.mark.django_db
def test_a_token_of_a_user_may_share_the_client_of_this_user_only() -> None:
    alice, bob = User.objects.create_user("alice"), User.objects.create_user("bob")
    token, _ = create_access_token(f"user:{alice.pk}", user=alice)
    assert verify_access_token(token).client_id == f"user:{alice.pk}"
    with pytest.raises(ValueError, match="reserved"):
        create_access_token(f"user:{alice.pk}", user=bob)


@pytest.mark.parametrize("client_id", ["", "x" * 256, "a\x00", "a\ud800"])
def test_an_invalid_client_id_is_refused(client_id: str) -> None:
    with pytest.raises(ValueError, match=r"characters|NUL"):
        create_access_token(client_id)


def test_client_ids_that_differ_in_unstorable_characters_stay_apart() -> None:
    texts = ["jwt:a?", "jwt:a\ud800", "jwt:a\ud801", "jwt:a\ufffd", "jwt:a\x00"]
    bounded = [bound_client_id(text) for text in [*texts, "x" * 255, "x" * 256]]
    assert len(set(bounded)) == len(bounded)
    assert all(len(text) <= 255 for text in bounded)
    assert bound_client_id("jwt:a?") == "jwt:a?"


@pytest.mark.django_db
def test_no_token_looks_like_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    made = iter(["-option", "--help", "token"])
    monkeypatch.setattr(secrets, "token_urlsafe", lambda size: next(made))
    token, _ = create_access_token("alice")
    assert token == "token"


@pytest.mark.django_db
def test_a_token_is_stored_as_a_hash_only() -> None:
    token, _ = create_access_token("alice")
    row = AccessToken.objects.values().get()
    assert token not in str(row)
    assert len(token) == 43
    assert set(token) <= set(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    )


@pytest.mark.django_db
@pytest.mark.parametrize("token", ["", "wrong", "\x00", "é" * 10_000, "\ud800"])
def test_an_unknown_token_is_unauthenticated(token: str) -> None:
    assert refusal(verify_access_token, token) == "unauthenticated"


@pytest.mark.django_db
def test_the_look_up_of_a_token_uses_its_hash_alone() -> None:
    """
    Nothing is compared with the token itself, so no timing can tell of it.

    What the database looks for is uniform and unknown to who guesses: a guess
    that begins right has a hash that does not.
    """
    token, row = create_access_token("alice")
    almost = token[:-1] + ("a" if token[-1] != "a" else "b")
    statements = []
    for guess in (token, almost, "x"):
        with CaptureQueriesContext(connection) as captured:
            AccessToken.objects.find_all([guess])
        (query,) = captured
        digest = hashlib.sha256(guess.encode()).hexdigest()
        assert digest in query["sql"]
        assert guess == "x" or guess not in query["sql"]
        statements.append(query["sql"].replace(digest, "?"))
    assert len(set(statements)) == 1
    assert row.digest == hashlib.sha256(token.encode()).hexdigest()


@pytest.mark.django_db
def test_expired_revoked_and_deactivated_have_reasons_of_their_own() -> None:
    user = User.objects.create_user("alice")
    token, row = create_access_token(
        "alice", user=user, expires_at=timezone.now() + timedelta(seconds=60)
    )
    verify_access_token(token)
    User.objects.update(is_active=False)
    assert refusal(verify_access_token, token) == "deactivated"
    row.expires_at = timezone.now() - timedelta(seconds=1)
    row.save()
    assert refusal(verify_access_token, token) == "token_expired"
    row.revoked_at = timezone.now()
    row.save()
    assert refusal(verify_access_token, token) == "revoked"


@pytest.mark.parametrize(
    ("scopes", "path", "route", "is_covered"),
    [
        ((), "/ws/chat/1/", "ws/chat/<int:room>/", True),
        (("/ws/chat/",), "/ws/chat/1/", "", True),
        (("/ws/chat",), "/ws/chat/1/", "", True),
        (("/ws/chat/",), "/ws/chat", "", True),
        (("/ws/chat",), "/ws/chatter/", "", False),
        (("/ws/chat/1",), "/ws/chat/12/", "", False),
        (("/ws/chat/",), "/ws/", "", False),
        (("/",), "/ws/anything/", "", True),
        (("ws/chat/<int:room>/",), "/ws/chat/1/", "ws/chat/<int:room>/", True),
        (("ws/chat/",), "/ws/chat/1/", "ws/chat/<int:room>/", False),
        (("/ws/a/", "/ws/b/"), "/ws/b/", "", True),
        (("/ws/chat/",), "/ws/chat/../admin/", "", False),
        (("/ws/chat/",), "/ws/chat/..", "", False),
        (("/ws/chat/",), "/ws/chat/./1/", "", False),
        (("/ws/chat/",), "/ws/chat/.", "", False),
        (("/ws/chat/",), "/ws/chat//1/", "", False),
        (("/ws/chat/",), "//ws/chat/1/", "", False),
        (("/ws/chat/",), "/ws/chat/%2e%2E/admin/", "", False),
        (("/ws/chat/",), "/ws/chat/..%2fadmin/", "", False),
        (("/ws/chat/",), "/ws/chat/%252e%252e/admin/", "", False),
        (("/ws/chat/",), "/ws/chat/..;/admin/", "", False),
        (("/ws/chat/",), "/ws/chat/1;admin=1/", "", False),
        (("/ws/chat/",), "/ws/chat/..\\admin/", "", False),
        (("/ws/chat/",), "/ws/chat/1/\x00", "", False),
        (("/ws/chat/",), "/WS/chat/1/", "", False),
        (("/ws/chat/",), "/ws/Chat/1/", "", False),
        (("/",), "/ws/../admin/", "", False),
        (("/ws/chat/",), "/ws/chat/.../a..b/.c/", "", True),
        (("ws/<path:rest>",), "/ws/chat/../admin/", "ws/<path:rest>", True),
        ((), "/ws/chat/../admin/", "", True),
    ],
)
def test_a_scope_is_a_path_with_all_below_it_or_a_route(
    scopes: tuple[str, ...], path: str, route: str, is_covered: bool
) -> None:
    credential = Credential(client_id="alice", scopes=scopes)
    assert credential.covers(path, route) is is_covered


@pytest.mark.parametrize(
    "scope",
    [
        *("", "/ws/ chat/", "/ws/?a=1", "/ws/#a", "x" * 256),
        *("/ws/../", "/ws//chat/", "/ws/./chat/", "/ws/..", "/ws/%2e%2e/", "/ws;a/"),
    ],
)
def test_an_invalid_scope_is_refused(scope: str) -> None:
    with pytest.raises(ValueError, match="no scope"):
        check_scope(scope)


@pytest.mark.django_db
def test_a_session_gives_its_user() -> None:
    user = User.objects.create_user("alice")
    key = log_in(user)
    credential = verify_session(key)
    assert (credential.client_id, credential.user) == (f"user:{user.pk}", user)
    assert credential.session_digest == digest_session_key(key) != key


@pytest.mark.django_db
def test_a_new_password_ends_the_session() -> None:
    user = User.objects.create_user("alice", password="one")
    key = log_in(user)
    user.set_password("two")
    user.save()
    assert refusal(verify_session, key) == "unauthenticated"


@pytest.mark.django_db
def test_a_session_survives_a_new_secret_key_and_is_not_rotated(settings: Any) -> None:
    """A WebSocket cannot set the cookie that a rotation would need."""
    user = User.objects.create_user("alice")
    key = log_in(user)
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another"
    for _ in range(2):
        assert verify_session(key).user == user


@pytest.mark.django_db
@pytest.mark.parametrize(
    "key", ["", "nonsense", "x" * 300, "x" * 40 + "\x00", "x" * 40 + "\ud800", "é" * 40]
)
def test_an_unknown_session_is_unauthenticated(key: str) -> None:
    assert refusal(verify_session, key) == "unauthenticated"


@pytest.mark.django_db
def test_a_session_without_an_active_user_is_unauthenticated() -> None:
    user = User.objects.create_user("alice", is_active=False)
    assert refusal(verify_session, log_in(user)) == "unauthenticated"
    key = log_in(user, **{BACKEND_SESSION_KEY: "not.configured"})
    assert refusal(verify_session, key) == "unauthenticated"


@pytest.mark.django_db(transaction=True)
async def test_a_credential_of_the_last_minute_outlives_the_database(
    switchable_database: SwitchableDatabase,
) -> None:
    token, _ = await database_sync_to_async(create_access_token)("alice")
    clock, database = FakeClock(), switchable_database
    verifier = Verifier(database, clock)
    assert (await verifier.verify_token(token)).client_id == "alice"
    database.is_away = True
    clock.advance(60)
    assert (await verifier.verify_token(token)).client_id == "alice"
    with pytest.raises(Refused) as refused:
        await verifier.verify_token("never seen")
    assert refused.value.close_reason.code == 4104
    clock.advance(1)
    with pytest.raises(Refused) as refused:
        await verifier.verify_token(token)
    assert refused.value.close_reason.code == 4104


@pytest.mark.django_db(transaction=True)
async def test_a_revoked_credential_is_forgotten(
    switchable_database: SwitchableDatabase,
) -> None:
    token, row = await database_sync_to_async(create_access_token)("alice")
    database = switchable_database
    verifier = Verifier(database, FakeClock())
    await verifier.verify_token(token)
    row.revoked_at = timezone.now()
    await database_sync_to_async(row.save)()
    with pytest.raises(Refused):
        await verifier.verify_token(token)
    database.is_away = True
    with pytest.raises(Refused) as refused:
        await verifier.verify_token(token)
    assert refused.value.close_reason.code == 4104


@pytest.mark.django_db(transaction=True)
async def test_the_last_use_is_written_in_batches_and_outlives_an_outage(
    switchable_database: SwitchableDatabase,
) -> None:
    database = switchable_database
    verifier = Verifier(database, FakeClock())
    for name in ("alice", "bob"):
        token, _ = await database_sync_to_async(create_access_token)(name)
        for _ in range(3):
            await verifier.verify_token(token)
    unused = AccessToken.objects.filter(last_used_at=None)
    assert await unused.acount() == 2
    database.is_away = True
    with pytest.raises(DatabaseUnavailable):
        await verifier.beat()
    database.is_away = False
    await verifier.beat()
    assert await unused.acount() == 0
    assert database.writes == 1
    await verifier.beat()
    assert database.writes == 1
