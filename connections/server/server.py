"""daphne's Server with the protections that only it can give, and a drain."""

# First: daphne installs the reactor that everything of Twisted imports.
from connections.error_log import get_logger

from connections.server.compat import DaphneServer, get_event_loop  # isort: skip

import asyncio
import contextvars
import os
import signal
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from urllib.parse import quote

from twisted.internet import defer, reactor
from twisted.internet.endpoints import serverFromString

from connections import close_codes
from connections.access.source_log import NO_ADDRESS
from connections.background import BackgroundTasks
from connections.config.loader import WebSocketConfig, get_config
from connections.exceptions import UnsharedLimits
from connections.hub.connection import LiveConnection
from connections.metrics.counters import (
    LATENCY_EDGES,
    CompressionCounts,
    Histogram,
)
from connections.node.current import get_node
from connections.node.exclusivity import require_no_older_node, require_shared_limits
from connections.node.gc import keep_collections_short
from connections.node.node import Node
from connections.node.warmup import warm_up
from connections.pool import choose_pool, get_redis_url
from connections.privacy import show_peer
from connections.process_exit import exit_in_time
from connections.server.admission import Admission
from connections.server.application_end import ApplicationEnd
from connections.server.arrival import Arrival
from connections.server.budget import BufferBudget
from connections.server.daphne_options import warn_of_ignored
from connections.server.drain import drain
from connections.server.file_limit import raise_file_limit
from connections.server.http import HttpChannel
from connections.server.http_factory import HttpFactory
from connections.server.process import begin_logging
from connections.server.request_limits import RequestLimits
from connections.server.sockets import is_unix, with_backlog
from connections.server.timers import CoarseTimers
from connections.server.transport import WriteBatch
from connections.server.turns import CallsPerTurn
from connections.server.websocket.protocol import WebSocketProtocol

logger = get_logger(__name__)

_ASGI = {"version": "3.0", "spec_version": "2.3"}
"""scope["asgi"] of all connections. By 2.4 send() raises for a client that has left."""

_PATH_CHARACTERS = 500
"""How much of a path the access log shows."""

_APPLICATION_CHECK = "The check for applications that do not end"
_TIMEOUT_CHECK = "The check for timeouts"


class Server(DaphneServer):
    """
    One node's server.

    Takes daphne's arguments; an endpoint may also be a Twisted object. Keys of the
    configuration override arguments.

    Raises:
        ConfigError: the configuration has problems.
    """

    def __init__(self, application: Any, **options: Any) -> None:
        self.config: WebSocketConfig = get_config()
        self.config.require_valid()
        warn_of_ignored(options)
        options["proxy_forwarded_address_header"] = None
        endpoints = [with_backlog(one) for one in options.pop("endpoints", ())]
        if any(map(is_unix, endpoints)) and not self.config.trusted_proxies:
            logger.warning(NO_ADDRESS, extra={"event": "no_client_address"})
        super().__init__(application, endpoints=endpoints, **options)
        loop = get_event_loop()
        self.admission = Admission(self.config, loop.time)
        self.request_limits = RequestLimits(self.config, loop.time)
        self.budget = BufferBudget(self.config.buffers.max_total_bytes)
        self.body_files = BufferBudget(self.config.http.max_total_body_bytes)
        self.round_trips = Histogram(LATENCY_EDGES)
        self.compression = CompressionCounts()
        self.timers = CoarseTimers(loop)
        self.write_batch = WriteBatch(loop)
        self.connections: dict[Any, dict[str, Any]] = {}
        """The WebSockets and requests with their details, oldest first."""

        self._requests: dict[Any, None] = {}
        # When the client left of each application that still runs.
        self._lingering: dict[Any, float] = {}
        self.http_channels: set[HttpChannel | Arrival] = set()
        """The connections that are no WebSockets, or none yet."""

        self.ports: list[Any] = []
        self.node: Node | None = None
        self.exit_code = 0
        self.is_retiring = False
        self.loop = loop
        self._context = contextvars.copy_context()
        self.losses = CallsPerTurn(loop)
        """The ends of WebSockets whose TCP connection is lost."""
        self.skips_grace = asyncio.Event()
        self._signals = 0
        self.tasks = BackgroundTasks()
        self._starting: asyncio.Task[None] | None = None

    @property
    def is_draining(self) -> bool:
        """Return True while handshakes are refused because the node will stop."""
        return self.admission.is_draining

    @property
    def websockets(self) -> list[WebSocketProtocol]:
        """The WebSockets whose client or application is still there."""
        return [one for one in self.connections if isinstance(one, WebSocketProtocol)]

    @property
    def applications(self) -> list[asyncio.Task[None]]:
        """The running applications of WebSockets and requests."""
        details = self.connections.values()
        found = (one.get("application_instance") for one in details)
        return [task for task in found if task is not None and not task.done()]

    @property
    def requests(self) -> list[asyncio.Task[None]]:
        """The running applications of HTTP requests."""
        found = (
            self.connections[one].get("application_instance") for one in self._requests
        )
        return [task for task in found if task is not None and not task.done()]

    def run(self) -> None:
        """Serve until a signal or stop(); exit_code holds the result."""
        try:
            pool = choose_pool(self.config, get_redis_url())
            require_shared_limits(self.config, pool)
        except UnsharedLimits as exc:
            logger.error("Not started: %s", exc, extra={"event": "unshared_limits"})
            # daphne's command line reads the first, ours the second.
            self.abort_start, self.exit_code = True, 1
            return
        self.http_factory = HttpFactory(self)
        begin_logging(self.verbosity)
        raise_file_limit(self.config)
        asyncio.set_event_loop(self.loop)
        if self.verbosity >= 3:
            self.loop.set_debug(True)
        self.loop.run_until_complete(self._prepare())
        for description in self.endpoints:
            logger.info("Configuring endpoint %s", description)
            endpoint = description
            if isinstance(description, str):
                endpoint = serverFromString(reactor, description)
            listener = endpoint.listen(self.http_factory)
            listener.addCallbacks(self.listen_success, self.listen_error)
            self.listeners.append(listener)
        reactor.addSystemEventTrigger("before", "shutdown", self.kill_all_applications)
        if self.abort_start:
            self.exit_code = 1
            return
        if self.ready_callable:
            self.ready_callable()
        keep_collections_short()
        reactor.callLater(0, self._begin)
        reactor.callLater(1, self.application_checker)
        reactor.callLater(2, self.timeout_checker)
        reactor.run(installSignalHandlers=self.signal_handlers)
        if self.signal_handlers:
            exit_in_time(self.exit_code)

    def listen_success(self, port: Any) -> None:
        self.ports.append(port)
        super().listen_success(port)

    def listen_error(self, failure: Any) -> None:
        self.exit_code = 1
        super().listen_error(failure)

    # Connections

    def protocol_connected(self, protocol: Any) -> None:
        self.connections[protocol] = {"connected": self.loop.time()}
        if not isinstance(protocol, WebSocketProtocol):
            self._requests[protocol] = None

    def protocol_disconnected(self, protocol: Any) -> None:
        details = self.connections.get(protocol)
        if details is None:
            return
        left_at = self._lingering.setdefault(protocol, self.loop.time())
        details["disconnected"] = left_at
        self._forget_if_done(protocol)

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> None:
        """Run the application for a connection, which is its receive and send."""
        scope["asgi"] = _ASGI
        details = self.connections.get(protocol)
        if details is None:
            return
        running = self.application(scope, protocol.receive, protocol.send)
        # Without a name each task makes one of its own, and keeps it.
        task = self.loop.create_task(running, name=scope["type"])
        details["application_instance"] = task
        # One context for all; asyncio copies one for each callback otherwise.
        end = ApplicationEnd(self, protocol)
        task.add_done_callback(end, context=self._context)

    def application_ended(self, protocol: Any, task: asyncio.Task[None]) -> None:
        """Log the exception of an application, and end its connection at once."""
        exception = None if task.cancelled() else task.exception()
        if exception is not None:
            logger.error(
                "Exception inside application: %s",
                exception,
                exc_info=exception,
                extra={"event": "application_failed"},
            )
        try:
            protocol.application_ended(exception)
        except Exception as exc:
            self._on_failure(protocol, exc)
        self._forget_if_done(protocol)

    def _forget_if_done(self, protocol: Any) -> None:
        """Forget a connection whose client and application have both ended."""
        if protocol not in self._lingering:
            return
        task = self.connections[protocol].get("application_instance")
        if task is None or task.done():
            del self.connections[protocol]
            self._requests.pop(protocol, None)
            self.request_limits.end(protocol)
            del self._lingering[protocol]

    def log_action(self, protocol: str, action: str, details: dict[str, Any]) -> None:
        """
        Write a line of the access log without the query, which may hold a ticket.

        The path stays encoded: a decoded line break would begin a new line.
        """
        path = quote(str(details.get("path", "")).partition("?")[0])[:_PATH_CHARACTERS]
        shown = {"path": path, "client": show_peer(details.get("client"))}
        try:
            super().log_action(protocol, action, {**details, **shown})
        except (OSError, ValueError) as exc:
            # A full disk or a closed stream concerns no client.
            logger.error(
                "The access log cannot be written: %s",
                exc,
                exc_info=exc,
                extra={"event": "access_log_failed"},
            )

    # The checkers: a failure concerns one connection only

    def application_checker(self) -> None:
        """Cancel applications that run too long after their client left."""
        reactor.callLater(1, self.application_checker)
        latest = self.loop.time() - self.application_close_timeout
        late = [one for one, left_at in self._lingering.items() if left_at < latest]
        is_whole = self._check_each(late, self._cancel_application)
        self._record_step(_APPLICATION_CHECK, is_whole=is_whole)

    def _record_step(self, name: str, *, is_whole: bool) -> None:
        if is_whole and self.node is not None:
            self.node.steps.record_success(name)

    def _cancel_application(self, protocol: Any) -> None:
        task = self.connections[protocol].get("application_instance")
        if task is None:
            return
        logger.warning(
            "The application of %r did not end in time and is cancelled",
            protocol,
            extra={"event": "application_cancelled"},
        )
        task.cancel()

    def timeout_checker(self) -> None:
        """Enforce the timeouts of requests and the lifetime of WebSockets."""
        reactor.callLater(2, self.timeout_checker)
        old = self._find_old()
        hub = self.node.hub if old and self.node is not None else ()
        by_transport: dict[object, LiveConnection] = {one.transport: one for one in hub}

        def end_old(protocol: WebSocketProtocol) -> None:
            # The connection says `bye` first; another application has none.
            connection = by_transport.get(protocol)
            if connection is None:
                protocol.end(close_codes.ASKED_TO_RECONNECT)
            else:
                connection.end(close_codes.ASKED_TO_RECONNECT)

        is_whole = self._check_each(
            list(self._requests), lambda request: request.check_timeouts()
        )
        is_whole &= self._check_each(old, end_old)
        self._record_step(_TIMEOUT_CHECK, is_whole=is_whole)

    def _check_each(
        self, protocols: Iterable[Any], check: Callable[[Any], None]
    ) -> bool:
        """Check each connection; return True if none failed."""
        is_whole = True
        for protocol in protocols:
            try:
                check(protocol)
            except Exception as exc:
                is_whole = False
                self._on_failure(protocol, exc)
        return is_whole

    def _find_old(self) -> list[WebSocketProtocol]:
        """Return the WebSockets that are older than daphne's --websocket_timeout."""
        found: list[WebSocketProtocol] = []
        if self.websocket_timeout < 0:
            return found
        oldest = self.loop.time() - self.websocket_timeout
        for protocol, details in self.connections.items():
            if details["connected"] > oldest:
                break
            if isinstance(protocol, WebSocketProtocol):
                found.append(protocol)
        return found

    def _on_failure(self, protocol: object, exc: Exception) -> None:
        if self.node is not None:
            self.node.counters.failures.add("The server")
        logger.error(
            "The server failed over %r: %s",
            protocol,
            exc,
            exc_info=exc,
            extra={"event": "checker_failed"},
        )

    # Start and stop

    def kill_all_applications(self) -> Any:
        """Hand all clients over; Twisted stops when the Deferred fires."""
        if self._starting is not None:
            self._starting.cancel()
        drained = defer.Deferred()
        draining = self.tasks.start(drain(self), "The drain")
        draining.add_done_callback(lambda _: drained.callback(None))
        return drained

    async def _prepare(self) -> None:
        """Make the node, and warm it up for the first clients."""
        await warm_up(get_node())

    def _begin(self) -> None:
        """Start the node once its event loop keeps running."""
        self.node = get_node()
        self.node.has_own_server = True
        self.node.counters.refused_early = self.admission.refusals
        self.node.was_refused = self.admission.was_refused
        self.admission.on_refused = self.node.top.record_refused_address
        self.node.counters.refused_requests = self.request_limits.refusals
        self.node.counters.round_trips = self.round_trips
        self.node.counters.compression = self.compression
        self.node.steps.declare(_APPLICATION_CHECK, 1)
        self.node.steps.declare(_TIMEOUT_CHECK, 2)
        self._starting = self.tasks.repeat(
            partial(self._start_node, self.node),
            "The start of the node",
            self.config.node.beat_seconds,
        )
        if self.signal_handlers:
            # Twisted's handler ignores every signal after the first.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._take_signal)

    async def _start_node(self, node: Node) -> bool:
        """Start the node, and stop again if an older node appeared meanwhile."""
        await node.start()
        if node.database is None:
            return True
        try:
            await require_no_older_node(
                self.config, node.pool_kind, node.database, node.node_id
            )
        except UnsharedLimits as exc:
            if not self.is_draining:
                logger.error("Stopped: %s", exc, extra={"event": "unshared_limits"})
                self.abort_start, self.exit_code = True, 1
                reactor.stop()
        return True

    def _take_signal(self, number: int, frame: object) -> None:
        reactor.callFromThread(self._stop_by_signal, number)

    def _stop_by_signal(self, number: int) -> None:
        self._signals += 1
        name = signal.Signals(number).name
        if self._signals == 1:
            logger.info("%s: draining", name, extra={"event": "drain_began"})
            reactor.stop()
        elif self._signals == 2:
            logger.warning("%s again: no grace", name, extra={"event": "drain_cut"})
            self.skips_grace.set()
            if self.node is not None:
                self.node.skip_grace()
        else:
            os._exit(1)
