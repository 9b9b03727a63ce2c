"""Stop a server without losing a client; every wait has a deadline."""

import asyncio
import logging
import random
from collections.abc import Iterable
from typing import Any, Protocol

from connections import close_codes
from connections.background import BackgroundTasks
from connections.config.loader import WebSocketConfig
from connections.node.drain import get_window_seconds
from connections.node.node import Node
from connections.server.admission import Admission
from connections.server.arrival import Arrival
from connections.server.http import HttpChannel
from connections.server.websocket.protocol import WebSocketProtocol

logger = logging.getLogger(__name__)

_CANCEL_SECONDS = 0.5
"""For applications to end by themselves, and again after they are cancelled."""

_POLL_SECONDS = 0.05
"""Between looks at the responses that clients still read."""


class DrainedServer(Protocol):
    """The parts of a server that a drain stops."""

    admission: Admission
    is_retiring: bool
    """True if another process accepts in place of this one."""
    config: WebSocketConfig
    http_channels: set[HttpChannel | Arrival]
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
    grace period and two seconds more. A part that fails does not stop the others.
    """
    server.admission.is_draining = True
    node = server.node
    if node is None:
        return
    node.begin_drain()
    # The delay is for a balancer, which sees nothing of a replaced worker.
    delay_seconds = 0 if server.is_retiring else server.config.drain.delay_seconds
    delay = server.tasks.start(asyncio.sleep(delay_seconds), "The delay of the drain")
    await _wait(server, [delay], delay_seconds)
    ends_at = server.loop.time() + server.config.drain.grace_seconds
    attempt = node.hub.passes.attempt_work
    await attempt("The close of the ports", _close_ports(server, node))
    others = server.tasks.start(_close_others(server, node), "The drain of others")
    await attempt("The drain of the node", node.drain())
    waiting = [others, *server.requests]
    await _wait(server, waiting, ends_at - server.loop.time())
    others.cancel()
    await attempt("The end of the responses", _finish_responses(server, ends_at))
    await attempt("The end of the applications", _end_applications(server, node))
    await node.stop()
    logger.info("Drained", extra={"event": "drained"})


async def finish_handshakes(server: DrainedServer) -> None:
    """
    Accept nothing more, and wait until each accepted handshake is answered.

    Another process accepts in place of this one: no client is refused, as it would
    be by a drain that begins before its handshake is answered.
    """
    server.is_retiring = True
    for port in server.ports:
        await _stop_listening(server, port)
    ends_at = server.loop.time() + server.config.handshake.timeout_seconds
    while server.http_channels or server.admission.unanswered_count:
        if server.loop.time() >= ends_at:
            return
        for channel in list(server.http_channels):
            channel.close_idle()
        await asyncio.sleep(_POLL_SECONDS)


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


async def _close_ports(server: DrainedServer, node: Node) -> None:
    """Accept nothing more; HTTP connections end with the request under way."""
    for port in server.ports:
        await node.hub.passes.attempt_work(
            "The close of a port", _stop_listening(server, port)
        )
    node.hub.passes.for_each(
        "The close of idle HTTP connections",
        lambda channel: channel.close_idle(),
        list(server.http_channels),
    )


async def _stop_listening(server: DrainedServer, port: Any) -> None:
    stopped = port.stopListening()
    if stopped is not None:
        await stopped.asFuture(server.loop)


async def _finish_responses(server: DrainedServer, ends_at: float) -> None:
    """Let clients read the ends of their responses within the grace."""
    while any(channel.is_sending for channel in server.http_channels):
        if server.loop.time() >= ends_at or server.skips_grace.is_set():
            return
        await asyncio.sleep(_POLL_SECONDS)


async def _close_others(server: DrainedServer, node: Node) -> None:
    """
    Close the WebSockets that the node does not know, spread over the grace.

    They belong to consumers that are none of this package's.
    """
    known = {connection.transport for connection in node.hub}
    others = [one for one in server.websockets if one not in known]
    random.shuffle(others)
    grace_seconds = server.config.drain.grace_seconds
    window_seconds = get_window_seconds(len(others), grace_seconds)
    began_at = server.loop.time()
    for number, one in enumerate(others, start=1):
        closes_at = began_at + window_seconds * number / len(others)
        await asyncio.sleep(closes_at - server.loop.time())
        node.hub.passes.attempt("The drain of others", _end, one)


def _end(websocket: WebSocketProtocol) -> None:
    websocket.end(close_codes.DRAINING)


async def _end_applications(server: DrainedServer, node: Node) -> None:
    """Disconnect the running applications, then cancel them."""
    passes = node.hub.passes
    passes.for_each("The close of WebSockets", _end, server.websockets)
    # A turn of the loop for the close frames, then the sockets go.
    await asyncio.sleep(0.05)
    passes.for_each(
        "The abort of WebSockets", lambda one: one.abort(), server.websockets
    )
    if server.applications:
        await asyncio.wait(server.applications, timeout=_CANCEL_SECONDS)
    for task in server.applications:
        task.cancel()
    if server.applications:
        _, stuck = await asyncio.wait(server.applications, timeout=_CANCEL_SECONDS)
        for task in stuck:
            logger.error("%r does not end when cancelled; left behind", task)
