"""Read the readiness of a live server."""

import asyncio
import json
import urllib.error
import urllib.request
from typing import Any

from connections.testing import LiveServer, wait_until
from connections.testing.waiting import scale


def read_health(server: LiveServer) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the body of /readyz."""
    try:
        with urllib.request.urlopen(
            f"{server.url}/readyz", timeout=scale(5)
        ) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, json.load(exc)


async def wait_for_status(server: LiveServer, status: int, word: str) -> None:
    """Wait until /readyz answers with this HTTP status and this word."""

    async def has_it() -> bool:
        found, health = await asyncio.to_thread(read_health, server)
        return (found, health["status"]) == (status, word)

    await wait_until(has_it, 20)
