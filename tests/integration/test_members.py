"""Test the members of a session on two live nodes that share Redis or PostgreSQL."""

from typing import Any

import pytest
from django.contrib.auth.models import User

from connections.client import HttpSessions, Joined, RequestFailed, SessionClient
from connections.testing import LiveServer, Servers, wait_until
from tests.integration.redis_process import RedisProcess
from tests.integration.services import PostgresProcess

# A node that missed a hint would read the roles long after the test.
CONFIG = {"node__beat_seconds": 0.2, "sessions__position_seconds": 3000}


@pytest.fixture(params=["redis", "postgresql"])
def shared(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment of nodes that share their hints there."""
    if request.param == "redis":
        redis: RedisProcess = request.getfixturevalue("redis_process")
        return {"REDIS_URL": redis.url}
    postgres: PostgresProcess = request.getfixturevalue("migrated_postgres")
    return {"DATABASE_URL": postgres.create_database("members", template="migrated")}


class Person:
    """A user with a token, who asks a node over HTTP and attaches to sessions."""

    def __init__(self, server: LiveServer, name: str) -> None:
        create_user: Any = User.objects.create_user
        self.key = str(server.run(create_user, name).pk)
        self._token = server.create_token(f"{name}'s laptop", "--user", name)
        self.http = HttpSessions(f"{server.url}/api/sessions/", token=self._token)
        self._server = server

    def attach(self, session: str = "new") -> SessionClient:
        url = f"{self._server.ws_url}/ws/sessions/"
        return SessionClient(url, token=self._token, session=session)


def read_texts(client: SessionClient) -> list[tuple[str, str]]:
    """Return the author and the text of each entry."""
    return [(one.author, one.text) for one in client.entries]


async def test_a_guest_joins_by_link_on_another_node_until_it_is_removed(
    servers: Servers, shared: dict[str, str]
) -> None:
    first, second = servers.start_pair(config=CONFIG, environment=shared)
    owner, guest = Person(first, "olga"), Person(second, "gus")
    async with owner.attach() as at_first:
        await at_first.request({"text": "welcome"}, answer=False)
        session = at_first.session
        revoked = await owner.http.invite(session, "reader", lifetime_seconds=60)
        await owner.http.revoke(session, revoked.id)
        with pytest.raises(RequestFailed, match="invitation_revoked"):
            await guest.http.join(revoked.token)
        made = await owner.http.invite(session, "writer")
        assert await guest.http.join(made.token) == Joined(
            session=session, role="writer"
        )
        used, earlier = await owner.http.invitations(session)
        assert (used.id, used.single_use, used.token) == (made.id, True, "")
        assert used.used_at is not None
        assert (earlier.id, earlier.revoked_at is not None) == (revoked.id, True)
        async with guest.attach(session) as at_second:
            await at_second.request({"text": "hello"}, answer=False)
            olga, gus = (one.hello["author"] for one in (at_first, at_second))
            said = [(olga, "welcome"), (gus, "hello")]
            for client in (at_first, at_second):
                await wait_until(lambda client=client: read_texts(client) == said)
            await owner.http.change_role(session, guest.key, "reader")
            roles = await guest.http.members(session)
            assert roles.role == "reader"
            # As the entries name them.
            assert [one.author for one in roles.items] == [olga, gus]
            assert [one.user for one in roles.items] == [None, guest.key]

            async def is_refused() -> bool:
                try:
                    await at_second.request({"text": "more"}, answer=False)
                except RequestFailed as exc:
                    return exc.code == "forbidden"
                return False

            # The hint about the role is on its way.
            await wait_until(is_refused)
            assert at_second.ended is None
            await owner.http.remove_member(session, guest.key)
            await wait_until(lambda: at_second.ended is not None)
            assert at_second.ended is not None
            assert at_second.ended.code == 4003
        assert at_first.ended is None
    with pytest.raises(RequestFailed, match="not_found"):
        await guest.http.members(session)
