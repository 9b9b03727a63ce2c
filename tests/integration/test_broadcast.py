"""Test broadcasts to clients on real sockets, one of which reads nothing."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from connections.testing import (
    TEXT,
    RawClient,
    Servers,
    SlowClient,
    build_frame,
    wait_until,
)
from connections.testing.waiting import scale

COUNT, SIZE = 300, 20_000


@pytest.mark.parametrize("command", ["daphne", "uvicorn"])
async def test_a_client_that_reads_nothing_costs_no_other_a_message(
    servers: Servers, tmp_path: Path, command: Any
) -> None:
    """It gets what fits its buffer, and ends as a slow consumer does."""
    server = servers.start(
        command=command,
        application="tests.integration.consumers:application",
        environment={"SEEN": str(tmp_path / "seen"), "LOG_FORMAT": "json"},
        config={
            "anonymous": "true",
            "max_connections_per_client": 10,
            "node__beat_seconds": 0.1,
            # The readers live in this process, which may stand still for seconds.
            "buffers__send_stall_seconds": scale(3),
        },
    )
    origin = f"Origin: {server.url}"
    await SlowClient.open(server.port, "/direct/", origin)
    readers = [await RawClient.open(server.port, "/direct/", origin) for _ in "abc"]
    await readers[0].send(build_frame(TEXT, f"{COUNT} {SIZE}".encode()))

    async def read(client: RawClient) -> list[int]:
        frames = [await client.read_frame(seconds=30) for _ in range(COUNT)]
        assert {(one.opcode, len(one.payload)) for one in frames} == {(TEXT, SIZE)}
        return [int(one.payload) for one in frames]

    for numbers in await asyncio.gather(*map(read, readers)):
        assert numbers == [*range(COUNT)]
    await wait_until(lambda: '"reason": "slow_consumer"' in server.log(), 30)
