"""Two nodes with answers that count, for clients of six sessions."""

import re

import httpx

from connections.testing import LiveServer, Servers
from connections.testing.waiting import scale
from tests.integration.redis_process import RedisProcess
from tests.integration.session_client import SESSION_CONFIG

COUNT = 6
# Six answers are asked for, one after another, before the first of them is whole.
LONG = {"count": 40, "pause_seconds": scale(0.05)}
SHORT = {"count": 3, "pause_seconds": 0.01}
METRICS = "the token of the metrics"
COUNTING = {
    "SESSIONS_RESPONDER": "tests.integration.responders.Counting",
    "METRICS_TOKEN": METRICS,
}


def start_pair(servers: Servers, redis: RedisProcess) -> tuple[LiveServer, LiveServer]:
    return servers.start_pair(
        config=SESSION_CONFIG, environment={**COUNTING, "REDIS_URL": redis.url}
    )


async def read_gauge(server: LiveServer, name: str) -> float:
    headers = {"Authorization": f"Bearer {METRICS}"}
    async with httpx.AsyncClient(timeout=scale(20)) as client:
        answer = await client.get(f"{server.url}/metrics", headers=headers)
    found = re.search(rf"^{name}(?:{{[^}}]*}})? (\S+)$", answer.text, re.MULTILINE)
    assert found is not None, answer.text[:1000]
    return float(found[1])
