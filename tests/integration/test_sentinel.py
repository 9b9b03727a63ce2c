"""Test two live nodes while Sentinel makes the replica of their Redis the primary."""

from pathlib import Path

import pytest

from connections.testing import LiveServer, RawClient, Servers, read_close, wait_until
from tests.integration.group_socket import GroupSocket, say_until_heard
from tests.integration.sentinels import Sentinels

LIMIT = 3
CONFIG = {
    # Clients are identified by their addresses.
    "anonymous": "true",
    "max_connections_per_client": LIMIT,
    # Beats too slow to find what a message between nodes did not tell.
    "node__beat_seconds": 60,
    "node__lease_seconds": 180,
    "node__node_timeout_seconds": 180,
    # Clients here do not answer pings all the time.
    "ping_interval_seconds": 600,
}
CLIENT, MEMBERS = "127.0.0.10", ("127.0.0.21", "127.0.0.22")


async def open_socket(node: LiveServer, source: str) -> RawClient:
    return await RawClient.open(
        node.port, "/group/", f"Origin: {node.url}", source=source
    )


@pytest.fixture
def pair(
    servers: Servers, sentinels: Sentinels, tmp_path: Path
) -> tuple[LiveServer, LiveServer]:
    return servers.start_pair(
        command="daphne",
        application="tests.integration.consumers:application",
        config=CONFIG,
        environment={
            "REDIS_URL": sentinels.url,
            "SEEN": str(tmp_path / "seen"),
            "LOG_FORMAT": "json",
        },
    )


async def test_limits_groups_and_messages_between_nodes_follow_a_fail_over(
    pair: tuple[LiveServer, LiveServer], sentinels: Sentinels
) -> None:
    """The primary is killed, and the sentinel that the URL names first."""
    first, second = pair
    members = [
        GroupSocket(await open_socket(node, source))
        for node, source in zip(pair, MEMBERS, strict=True)
    ]
    await say_until_heard(members[0], "before", members)
    await say_until_heard(members[1], "before as well", members)
    held = [await open_socket(first, CLIENT) for _ in range(LIMIT - 1)]
    held.append(await open_socket(second, CLIENT))

    sentinels.primary.kill()
    sentinels.kill_first()
    await members[0].say("lost")
    for node, source in zip(pair, MEMBERS, strict=True):
        # No client is refused meanwhile; each node counts its own.
        await open_socket(node, source)
    for node in pair:
        await wait_until(lambda node=node: '"pool_restored"' in node.log(), 60)
        assert '"pool_degraded"' in node.log()
    assert sentinels.has_failed_over()

    await say_until_heard(members[0], "after", members)
    await say_until_heard(members[1], "after as well", members)
    for member in members:
        assert "lost" not in member.texts
        assert member.texts.index("gap") < member.texts.index("after as well")
        assert member.is_there
    newest = await open_socket(second, CLIENT)
    assert await read_close(held[0]) == (4005, "evicted")
    for one in (*held[1:], newest):
        await GroupSocket(one).say("still there")
    await wait_until(
        lambda: all(one.texts.count("still there") == LIMIT for one in members), 30
    )
