"""Forget a person who is connected, and search all that a served node keeps."""

import asyncio
import json
import sqlite3
from contextlib import closing

from websockets.typing import Subprotocol

from connections.testing import LiveServer, Servers, wait_until
from connections.testing.waiting import scale
from tests.integration.echo import opened
from tests.integration.redis_process import RedisProcess
from tests.planted import find_in_redis

CLIENT, OTHER, ADDRESS, AGENT = ("planted-c", "bystander", "203.0.113.77", "Planted/9")
PLANTED = (CLIENT, ADDRESS, AGENT)


def find_in_file(server: LiveServer, *texts: str) -> list[str]:
    """Return the lines of a dump of the SQLite file that hold one of some texts."""
    with closing(sqlite3.connect(server.folder / "db.sqlite3")) as database:
        dump = list(database.iterdump())
    return [one for one in dump if any(text in one for text in texts)]


async def test_nothing_of_a_forgotten_client_is_kept_or_logged(
    servers: Servers, redis_process: RedisProcess
) -> None:
    server = servers.start(
        environment={"REDIS_URL": redis_process.url},
        config={"trusted_proxies": "127.0.0.1", "node__beat_seconds": 0.2},
    )
    token = server.create_token(CLIENT)
    with redis_process.connect() as redis:
        async with (
            opened(server, server.create_token(OTHER), 1),
            server.connect(
                "/ws/sessions/new/?presence=1",
                token,
                headers={"X-Forwarded-For": ADDRESS},
                user_agent_header=AGENT,
                subprotocols=[Subprotocol("orchestra.v1")],
            ) as planted,
        ):
            message = {
                "type": "message",
                "id": "a-page-of-a-browser-1",
                "data": {"text": CLIENT},
            }
            await planted.send(json.dumps(message))
            async with asyncio.timeout(scale(20)):
                while json.loads(await planted.recv()).get("state") != "done":
                    continue
            for text in PLANTED:
                await wait_until(lambda one=text: find_in_file(server, one))
            await wait_until(lambda: find_in_redis(redis, CLIENT))
            kick = ("kick", "--client", CLIENT, "--note", f"flood from {ADDRESS}")
            await asyncio.to_thread(server.manage, "connections", *kick)
            forget = ("forget", "--client", CLIENT, "--json")
            done = json.loads(await asyncio.to_thread(server.manage, *forget))
            assert done["sessions"] == 1, done
            end = len(server.log())
            await wait_until(lambda: find_in_redis(redis, *PLANTED) == [])
            assert find_in_redis(redis, OTHER)
    assert server.terminate() == 0
    assert find_in_file(server, *PLANTED) == []
    assert find_in_file(server, OTHER)
    lines = server.log()[end:]
    assert OTHER in lines
    assert not [text for text in PLANTED if text in lines]
