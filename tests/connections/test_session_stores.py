"""Test the end of sessions, in a cache or in files and where it is observed."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from channels.db import database_sync_to_async
from django.contrib.auth import HASH_SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.utils import timezone

from connections import close_codes
from connections.credentials.sessions import (
    is_hash_valid,
    make_store,
    verify_session,
)
from connections.exceptions import DatabaseUnavailable, Refused
from connections.node.node import Node
from connections.testing import FakeClock
from connections.testing.communicators import connect_to, make_config
from tests.connections import switchable_cache
from tests.connections.conversations import JsonEcho, receive_close
from tests.connections.login import log_in
from tests.connections.switchable_cache import SwitchableCache
from tests.connections.switchable_database import SwitchableDatabase

pytestmark = pytest.mark.django_db(transaction=True)

in_database = database_sync_to_async

ROUTE = "ws/old/"


@pytest.fixture(params=["cache", "file"])
def engine(request: pytest.FixtureRequest, settings: Any, tmp_path: Path) -> None:
    """An engine that keeps no rows of sessions."""
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{request.param}"
    settings.SESSION_FILE_PATH = str(tmp_path)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """A node that observes expiry on ROUTE, and polls when the test calls it."""
    database = SwitchableDatabase()
    config = make_config(enforce={"routes": {ROUTE: {"expiry": "observe"}}})
    yield Node(config, database=database, clock=FakeClock())
    await database.close()


async def open_with_session(node: Node, lifetime_seconds: int) -> tuple[Any, Any]:
    """Open a connection of a user and a session that a middleware has read."""

    def log_user_in() -> tuple[User, Any]:
        user = User.objects.create_user("alice")
        session = make_store(log_in(user))
        session.set_expiry(lifetime_seconds)
        session.save()
        return user, session

    user, session = await in_database(log_user_in)()
    scope = {"session": session, "user": user, "credential": None, "route": ROUTE}
    communicator = connect_to(JsonEcho, node, **scope)
    assert (await communicator.connect())[0]
    return communicator, session


async def recheck(node: Node) -> None:
    assert isinstance(node.clock, FakeClock)
    node.clock.advance(node.config.reauthorise_seconds)
    await node.beat()
    await node.reauthoriser.poll()


async def test_a_session_that_is_gone_at_its_end_has_expired(
    node: Node, engine: None
) -> None:
    """What does not belong to expiry still ends the connection."""
    communicator, session = await open_with_session(node, 30)
    (live,) = node.hub
    assert live.expires_at is not None
    assert live.expires_at - timezone.now() <= timedelta(seconds=30)
    await in_database(session.delete)()
    await recheck(node)
    assert [one.close_reason for one in node.hub] == [None]
    assert node.counters.get_totals(())["would_have"] == {"expiry": 1}
    await User.objects.aupdate(is_active=False)
    await recheck(node)
    assert (await receive_close(communicator))["reason"] == "deactivated"
    await communicator.disconnect()


async def test_a_session_that_is_gone_long_before_its_end_was_logged_out(
    node: Node, engine: None
) -> None:
    communicator, session = await open_with_session(node, 86400)
    await in_database(session.delete)()
    await recheck(node)
    assert (await receive_close(communicator))["reason"] == "logged_out"
    await communicator.disconnect()


async def test_without_a_database_the_end_of_a_session_is_unknown(
    engine: None,
) -> None:
    """Nothing would see that requests over HTTP extend it."""
    node = Node(make_config())
    communicator, _ = await open_with_session(node, 30)
    assert [one.expires_at for one in node.hub] == [None]
    await communicator.disconnect()


@pytest.fixture
def cache(settings: Any) -> Iterator[type[SwitchableCache]]:
    """The cache of the sessions, which a test can take away."""
    settings.CACHES = {"default": {"BACKEND": switchable_cache.PLACE}}
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.cache"
    yield SwitchableCache
    SwitchableCache.is_away = False
    SwitchableCache("", {}).clear()


async def test_an_outage_of_the_cache_of_sessions_logs_nobody_out(
    node: Node, cache: type[SwitchableCache]
) -> None:
    communicator, session = await open_with_session(node, 86400)
    cache.is_away = True
    await recheck(node)
    assert [one.close_reason for one in node.hub] == [None]
    cache.is_away = False
    await recheck(node)
    await in_database(session.delete)()
    await recheck(node)
    assert (await receive_close(communicator))["reason"] == "logged_out"
    await communicator.disconnect()


async def test_a_session_that_the_cache_does_not_tell_for_long_is_unavailable(
    node: Node, cache: type[SwitchableCache]
) -> None:
    communicator, _ = await open_with_session(node, 86400)
    cache.is_away = True
    assert isinstance(node.clock, FakeClock)
    node.clock.advance(node.config.stale_authorisation_seconds)
    await recheck(node)
    assert (await receive_close(communicator))["code"] == 4104
    await communicator.disconnect()


async def test_a_handshake_during_an_outage_of_the_cache_is_recalled_or_unavailable(
    node: Node, cache: type[SwitchableCache]
) -> None:
    alice = await User.objects.acreate_user("alice")
    known, other = [await in_database(log_in)(alice) for _ in range(2)]
    assert node.verifier is not None
    await node.verifier.verify_session(known)
    cache.is_away = True
    assert (await node.verifier.verify_session(known)).user == alice
    with pytest.raises(Refused) as refused:
        await node.verifier.verify_session(other)
    assert refused.value.close_reason is close_codes.UNAVAILABLE
    with pytest.raises(Refused) as refused:
        await node.verifier.verify_session("no key")
    assert refused.value.close_reason is close_codes.UNAUTHENTICATED


async def open_expired(node: Node) -> Any:
    """Open a connection whose expired session its table no longer holds."""

    def log_user_in() -> Any:
        return verify_session(log_in(User.objects.create_user("alice")))

    credential = await in_database(log_user_in)()
    past = timezone.now() - timedelta(minutes=1)
    credential = replace(credential, expires_at=past)
    communicator = connect_to(
        JsonEcho, node, credential=credential, user=credential.user, route=ROUTE
    )
    assert (await communicator.connect())[0]
    await Session.objects.all().adelete()
    await recheck(node)
    assert [one.close_reason for one in node.hub] == [None]
    return communicator


async def test_a_new_password_ends_an_expired_session_that_is_observed(
    node: Node,
) -> None:
    communicator = await open_expired(node)
    await User.objects.aupdate(password="another")
    await recheck(node)
    assert (await receive_close(communicator))["reason"] == "logged_out"
    await communicator.disconnect()


async def test_an_observed_expiry_is_an_answer_that_outlasts_an_outage(
    node: Node,
) -> None:
    communicator = await open_expired(node)
    assert isinstance(node.clock, FakeClock)
    node.clock.advance(node.config.stale_authorisation_seconds)
    await recheck(node)
    assert isinstance(node.database, SwitchableDatabase)
    node.database.is_away = True
    node.clock.advance(node.config.reauthorise_seconds)
    with pytest.raises(DatabaseUnavailable):
        await node.reauthoriser.poll()
    assert [one.close_reason for one in node.hub] == [None]
    node.database.is_away = False
    await communicator.disconnect()


def test_a_session_of_a_user_without_hashes_is_valid() -> None:
    """As for Django: a user model need not be an AbstractBaseUser."""
    assert is_hash_valid({HASH_SESSION_KEY: ""}, SimpleNamespace(pk=1))
