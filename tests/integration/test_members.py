"""Test the members of a session on two live nodes that share Redis or PostgreSQL."""

from typing import Any

import httpx
import pytest
from django.contrib.auth.models import User

from connections.client import RequestFailed, SessionClient
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
        self._sessions = f"{server.url}/api/sessions/"
        self._server = server

    async def ask(self, method: str, path: str, **body: Any) -> Any:
        """Return the JSON of an answer; None if it has no content."""
        async with httpx.AsyncClient() as client:
            answer = await client.request(
                method,
                f"{self._sessions}{path}",
                headers={"Authorization": f"Bearer {self._token}"},
                json=body or None,
                timeout=30,
            )
        answer.raise_for_status()
        return answer.json() if answer.content else None

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
        made = await owner.ask("POST", f"{session}/invitations/", role="writer")
        joined = await guest.ask("POST", "join/", token=made["token"])
        assert joined == {"session": session, "role": "writer"}
        async with guest.attach(session) as at_second:
            await at_second.request({"text": "hello"}, answer=False)
            olga, gus = (one.hello["author"] for one in (at_first, at_second))
            said = [(olga, "welcome"), (gus, "hello")]
            for client in (at_first, at_second):
                await wait_until(lambda client=client: read_texts(client) == said)
            member = f"{session}/members/{guest.key}/"
            await owner.ask("PATCH", member, role="reader")
            roles = await guest.ask("GET", f"{session}/members/")
            assert roles["role"] == "reader"
            # As the entries name them.
            assert [one["author"] for one in roles["items"]] == [olga, gus]

            async def is_refused() -> bool:
                try:
                    await at_second.request({"text": "more"}, answer=False)
                except RequestFailed as exc:
                    return exc.code == "forbidden"
                return False

            # The hint about the role is on its way.
            await wait_until(is_refused)
            assert at_second.ended is None
            await owner.ask("DELETE", member)
            await wait_until(lambda: at_second.ended is not None)
            assert at_second.ended is not None
            assert at_second.ended.code == 4003
        assert at_first.ended is None
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        await guest.ask("GET", f"{session}/members/")
