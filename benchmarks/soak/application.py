"""
Serve the reference application, and a page with the live objects of the process.

With SOAK_PLANT each WebSocket leaks memory, a file or a task.
"""

import asyncio
import ctypes
import gc
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

from orchestra.asgi import application as project

# isort: split
# The import above sets up Django, which models need.
from connections.node.current import get_node

_LEFT_BYTES = 500_000

_left: list[Any] = []
_opened = 0


async def application(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Serve the reference application and /soak/."""
    global _opened
    if scope["type"] == "http" and scope["path"] == "/soak/":
        await _send_counts(send)
        return
    if scope["type"] == "websocket":
        _opened += 1
        _leak(os.environ.get("SOAK_PLANT"))
    await project(scope, receive, send)


async def _send_counts(send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """Answer with live objects, after a collection and a trim of memory."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    node = get_node()
    alive = {
        "tasks": len(asyncio.all_tasks()),
        "consumers": node.counters.consumers,
        "open": len(node.hub),
        "opened": _opened,
    }
    body = json.dumps(alive).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _leak(plant: str | None) -> None:
    if plant == "memory":
        _left.append(os.urandom(_LEFT_BYTES))
    elif plant == "files":
        _left.append(os.open(os.devnull, os.O_RDONLY))
    elif plant == "tasks":
        _left.append(asyncio.create_task(asyncio.Event().wait()))
