"""Test that a client of many sessions talks to servers of two releases."""

import asyncio
from pathlib import Path

import pytest

from connections.client import SharedConnection, State
from connections.testing import wait_until
from tests.upgrade.cluster import Cluster

pytestmark = pytest.mark.slow


async def test_sessions_share_a_connection_unless_an_older_server_serves_them(
    previous: Path, next_release: Path, cluster: Cluster
) -> None:
    cluster.migrate(previous)
    cluster.migrate(next_release)
    await asyncio.to_thread(cluster.start, next_release, 0)
    (token, *_) = cluster.create_tokens(next_release)
    url = f"{cluster.nodes[0].ws_url}/ws/sessions/"
    async with SharedConnection(url, token=token) as shared:
        clients = [shared.session() for _ in range(3)]
        for client in clients:
            client.connect()
            await client.request({"number": 0})
        assert shared.is_shared
        for release in (previous, next_release):
            await asyncio.to_thread(cluster.replace, release, 0)
            for client in clients:
                await client.request({"number": len(client.entries)})
            assert shared.is_shared is (release is next_release)
        for client in clients:
            await wait_until(lambda client=client: len(client.entries) == 3)
            assert client.state is State.OPEN
            assert [one.offset for one in client.entries] == [1, 2, 3]
            assert [one.data["number"] for one in client.entries] == [0, 1, 2]
