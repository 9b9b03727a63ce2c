"""A re-authorisation that fails for some connections reaches the others."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from connections.access.reauthorisation import Reauthoriser
from connections.credentials.identity import Credential
from connections.credentials.recheck import AuthorisationSnapshot
from connections.hub.connection import LiveConnection
from connections.hub.hub import Hub
from connections.storage.database import Database
from connections.testing import FakeClock
from connections.testing.communicators import make_config
from tests.connections.live_connections import make_connection

pytestmark = pytest.mark.django_db(transaction=True)

COUNT = 1_200
POLLS = 40
SLOW = "user 700"

Snapshots = Sequence[AuthorisationSnapshot]


class SlowDatabase(Database):
    """Lets every connection stay, but takes too long for some queries."""

    def __init__(self, is_slow: Callable[[Snapshots], bool]) -> None:
        super().__init__()
        self.is_slow = is_slow

    async def read(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        if self.is_slow(args[0]):
            raise TimeoutError
        return {}


class Backends:
    """Let every credential stay."""

    async def find_close_reasons(self, credentials: Sequence[Credential]) -> Any:
        return dict.fromkeys(credentials)


class Checks:
    """The re-authorisation of many connections, on a clock of the test."""

    def __init__(self, database: SlowDatabase, backend: str = "") -> None:
        self.clock, hub = FakeClock(), Hub()
        authenticator: Any = Backends()
        self.reauthoriser = Reauthoriser(
            make_config(reauthorise_seconds=3600),
            hub=hub,
            database=database,
            authenticator=authenticator,
            clock=self.clock,
        )
        self.began = self.clock()
        for number in range(COUNT):
            name = f"user {number}"
            credential = Credential(client_id=name, backend=backend)
            hub.join(made := make_connection(name, user_id=name))
            made.credential = credential
            made.authorised_at = made.reauthorise_at = self.began
        self.connections: list[LiveConnection] = [*hub]

    async def poll(self) -> bool:
        self.clock.advance(1)
        return await self.reauthoriser.poll()

    async def poll_often(self) -> set[Any]:
        """Poll, failures included; return the users that were never checked."""
        for _ in range(POLLS):
            try:
                await self.poll()
            except TimeoutError:
                continue
        assert all(one.close_reason is None for one in self.connections)
        old = [one for one in self.connections if one.authorised_at == self.began]
        return {one.user_id for one in old}


@pytest.fixture
async def database() -> AsyncIterator[SlowDatabase]:
    database = SlowDatabase(lambda snapshots: False)
    yield database
    await database.close()


@pytest.mark.parametrize("backend", ["", "devices.Backend"])
async def test_one_connection_with_a_slow_check_holds_up_no_other(
    database: SlowDatabase, backend: str
) -> None:
    database.is_slow = lambda some: any(one.user_id == SLOW for one in some)
    checks = Checks(database, backend)
    with pytest.raises(TimeoutError):
        await checks.poll()
    assert await checks.poll_often() == {SLOW}
    database.is_slow = lambda some: False
    assert await checks.poll()
    assert await checks.poll_often() == set()


async def test_a_database_that_is_slow_for_hundreds_is_asked_about_fewer(
    database: SlowDatabase,
) -> None:
    database.is_slow = lambda some: len(some) > 100
    assert await Checks(database).poll_often() == set()
