"""Stop a server without losing a client; every wait has a deadline."""

import asyncio
import logging
import random
from collections.abc import Iterable
from typing import Any, Protocol

from connections import close_codes
from connections.background import BackgroundTasks
from connections.config.loader import WebSocketConfig
from connections.node.node import Node
from connections.server.admission import Admission
from connections.server.http import HttpChannel
from connections.server.websocket.protocol import WebSocketProtocol

logger = logging.getLogger(__name__)

_CANCEL_SECONDS = 0.5
"""For applications to end by themselves, and again after they are cancelled."""


class DrainedServer(Protocol):
    """The parts of a server that a drain stops."""

    admission: Admission
    config: WebSocketConfig
    http_channels: set[HttpChannel]
    loop: asyncio.AbstractEventLoop
    node: Node | None
    ports: list[Any]
    skips_grace: asyncio.Event
    tasks: BackgroundTasks

    @property
    def websockets(self) -> list[WebSocketProtocol]:
        """All WebSockets whose client or application is still there."""

    @property
    def applications(self) -> list[asyncio.Task[None]]:
        """The applications that still run, of WebSockets and of requests."""

    @property
    def requests(self) -> list[asyncio.Task[None]]:
        """The applications of HTTP requests under way."""


async def drain(server: DrainedServer) -> None:
    """
    Refuse handshakes, close the ports, hand the clients over and flush records.

    While the database answers it takes at most the delay, the
    grace period and two seconds more.
    """
    server.admission.is_draining = True
    node = server.node
    if node is None:
        return
    node.begin_drain()
    delay_seconds = server.config.drain.delay_seconds
    delay = server.tasks.start(asyncio.sleep(delay_seconds), "The delay of the drain")
    await _wait(server, [delay], delay_seconds)
    ends_at = server.loop.time() + server.config.drain.grace_seconds
    await _close_ports(server)
    others = server.tasks.start(_close_others(server, node), "The drain of others")
    await node.drain()
    others.cancel()
    await _wait(server, server.requests, ends_at - server.loop.time())
    await _end_applications(server)
    await node.stop()
    logger.info("Drained", extra={"event": "drained"})


async def _wait(
    server: DrainedServer, tasks: Iterable[asyncio.Task[Any]], seconds: float
) -> None:
    """Wait until the tasks are done, but not for longer than that."""
    if seconds <= 0:
        return
    skipped = asyncio.create_task(server.skips_grace.wait())
    waiting = set(tasks)
    ends_at = server.loop.time() + seconds
    while waiting and not skipped.done():
        done, _ = await asyncio.wait(
            {skipped, *waiting},
            timeout=max(0, ends_at - server.loop.time()),
            return_when=asyncio.FIRST_COMPLETED,
        )
        if not done:
            break
        waiting -= done
    skipped.cancel()


async def _close_ports(server: DrainedServer) -> None:
    """Accept nothing more; HTTP connections end with the request under way."""
    for port in server.ports:
        stopped = port.stopListening()
        if stopped is not None:
            await stopped.asFuture(server.loop)
    for channel in list(server.http_channels):
        channel.close_idle()


async def _close_others(server: DrainedServer, node: Node) -> None:
    """
    Close the WebSockets that the node does not know, spread over the grace.

    They belong to consumers that are none of this package's.
    """
    known = {connection.transport for connection in node.hub}
    others = [one for one in server.websockets if one not in known]
    random.shuffle(others)
    for one in others:
        await asyncio.sleep(0.9 * server.config.drain.grace_seconds / len(others))
        one.end(close_codes.DRAINING)


async def _end_applications(server: DrainedServer) -> None:
    """Disconnect the running applications, then cancel them."""
    for websocket in server.websockets:
        websocket.end(close_codes.DRAINING)
    # A turn of the loop for the close frames, then the sockets go.
    await asyncio.sleep(0.05)
    for websocket in server.websockets:
        websocket.abort()
    if server.applications:
        await asyncio.wait(server.applications, timeout=_CANCEL_SECONDS)
    for task in server.applications:
        task.cancel()
    if server.applications:
        _, stuck = await asyncio.wait(server.applications, timeout=_CANCEL_SECONDS)
        for task in stuck:
            logger.error("%r does not end when cancelled; left behind", task)
