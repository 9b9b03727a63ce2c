import asyncio
import contextlib
import errno
import logging
import os
import re
import socket
from argparse import ArgumentTypeError
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from django.core.checks import ERROR, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, CommandParser
from django.db import connections

from connections.config.kinds import Whole
from connections.config.loader import get_config
from connections.exceptions import (
    ConfigError,
    IncompatibleDependency,
    NotMigrated,
    UnsharedLimits,
)
from connections.layers.checks import get_layer, is_process_layer
from connections.management.operator_command import OperatorCommand
from connections.node.exclusivity import require_shared_limits
from connections.pool import choose_pool, get_redis_url
from connections.pool.parent import PoolHost
from connections.server.service_manager import notify_ready
from connections.server.sockets import open_socket, take_socket
from connections.storage.database import require_tables
from connections.workers.assignment import Assignment, take_assignment
from connections.workers.cores import count_cores
from connections.workers.launch import find_command, find_start_folder
from connections.workers.parent import Parent

logger = logging.getLogger(__name__)

_MAX_WORKERS = 64


def _read_root_path(text: str) -> str:
    if not re.fullmatch(r"(/[^/?#\s]+)*", text):
        raise ArgumentTypeError(
            f"{text!r} is no URL prefix such as /app, without a slash at its end"
        )
    return text


def _read_workers(text: str) -> int:
    count = min(count_cores(), _MAX_WORKERS) if text == "auto" else 0
    if text.isascii() and text.isdecimal():
        count = int(text)
    if not 1 <= count <= _MAX_WORKERS:
        raise ArgumentTypeError(
            f"{text!r} is neither auto nor a whole number from 1 to {_MAX_WORKERS}"
        )
    return count


def _open(options: dict[str, Any]) -> socket.socket:
    """Return the listening socket that the options name."""
    if options["fd"] is not None:
        return take_socket(options["fd"])
    return open_socket(
        options["host"], options["port"], reuse_port=options["reuse_port"]
    )


@contextlib.contextmanager
def _explain_sockets() -> Iterator[None]:
    """Raise CommandError for a socket or a certificate that cannot be used."""
    try:
        yield
    except (OSError, ValueError) as exc:
        is_taken = isinstance(exc, OSError) and exc.errno == errno.EADDRINUSE
        advice = "; choose another with --port (or $PORT), or --metrics-port"
        raise CommandError(f"{exc}{advice if is_taken else ''}") from exc


class Command(OperatorCommand):
    help = "Serve HTTP and WebSocket as one node."
    # handle() checks the configuration first, so that it can list all problems.
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        port = os.environ.get("PORT", "8000")
        parser.add_argument(
            "--host", default="127.0.0.1", help="address (default: %(default)s)"
        )
        self.add_number(
            parser,
            "--port",
            Whole(0, 65_535),
            default=port,
            help="default: $PORT, or 8000; 0: a free one",
        )
        parser.add_argument(
            "--reuse-port",
            action="store_true",
            help="share the port with other processes that have this option",
        )
        self.add_number(
            parser,
            "--metrics-port",
            Whole(0, 65_535),
            help="second port of this process alone, so that Prometheus can scrape "
            "processes that share a port",
        )
        self.add_number(
            parser,
            "--fd",
            Whole(),
            help="file descriptor of a listening socket from a supervisor",
        )
        parser.add_argument(
            "--tls-cert", type=Path, help="PEM file with the certificate and its chain"
        )
        parser.add_argument(
            "--tls-key", type=Path, help="PEM file with the key of the certificate"
        )
        parser.add_argument(
            "--root-path",
            default="",
            type=_read_root_path,
            help="URL prefix under which a proxy publishes the project, such as /app; "
            "the proxy may remove it or not",
        )
        parser.add_argument(
            "--no-sweeper",
            action="store_true",
            help="do not sweep; manage.py sweep_idle_connections must run elsewhere",
        )
        parser.add_argument(
            "--access-log", action="store_true", help="log a line for each request"
        )

        parser.add_argument(
            "--workers",
            type=_read_workers,
            metavar="N",
            help="processes that share the port, each a node; auto: one for each core "
            f"that the process or its container may use, at most {_MAX_WORKERS}",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            get_config().require_valid()
        except ConfigError as exc:
            raise CommandError(f"nothing is served: {exc}") from exc
        self._check()
        try:
            require_tables()
        except NotMigrated as exc:
            raise CommandError(str(exc)) from exc
        assignment = take_assignment()
        if options["workers"] is not None and assignment is None:
            self._serve_by_workers(options)
        else:
            self._serve(options, assignment)

    def _serve(self, options: dict[str, Any], assignment: Assignment | None) -> None:
        """Serve as one node: alone, or as a worker with an assignment."""
        # Imported late: these install Twisted's reactor and import the project.
        try:
            from connections.server.compat import AccessLogGenerator
        except IncompatibleDependency as exc:
            raise CommandError(f"nothing is served: {exc}") from exc
        from connections.server.endpoints import SocketEndpoint, make_tls
        from connections.server.server import Server
        from connections.sweeper.background import BackgroundSweeper

        application = self._import_application()
        endpoints = []
        with _explain_sockets():
            tls = make_tls(options["tls_cert"], options["tls_key"])
            if assignment is not None:
                sock = take_socket(assignment.listening_fd)
                endpoints.append(SocketEndpoint(sock, tls, assignment.open_cell()))
            else:
                endpoints.append(SocketEndpoint(_open(options), tls))
            if options["metrics_port"] is not None:
                port = open_socket(options["host"], options["metrics_port"])
                endpoints.append(SocketEndpoint(port))
        access_log = options["access_log"]
        server = Server(
            application,
            endpoints=endpoints,
            action_logger=AccessLogGenerator(self.stdout) if access_log else None,
            server_name="orchestra",
            root_path=options["root_path"],
            ready_callable=None
            if assignment is not None
            else partial(
                self._announce, endpoints[0].address, is_secure=tls is not None
            ),
        )
        if assignment is not None:
            from connections.management.worker import join_parent

            join_parent(server, assignment)
        sweeper = None if options["no_sweeper"] else BackgroundSweeper(get_config())
        if sweeper is not None:
            sweeper.start()
        try:
            server.run()
        finally:
            if sweeper is not None:
                sweeper.stop()
        if server.exit_code:
            raise SystemExit(server.exit_code)

    def _serve_by_workers(self, options: dict[str, Any]) -> None:
        """
        Serve with several processes that share one socket.

        Raises:
            CommandError: the options or the limits do not allow several nodes.
        """
        if options["metrics_port"] is not None:
            raise CommandError(
                "--workers and --metrics-port exclude each other: with --workers the "
                "/metrics of any worker are those of all"
            )
        config = get_config()
        pool = choose_pool(config, get_redis_url())
        try:
            require_shared_limits(config, pool)
        except UnsharedLimits as exc:
            raise CommandError(f"nothing is served: {exc}") from exc
        if pool == "memory":
            logger.warning(
                "Without Redis and PostgreSQL the workers share limits, records and "
                "close requests, but presence is that of one worker and unknown to "
                "other processes, and entries of sessions reach other workers after "
                "%s s",
                f"{config.sessions.position_seconds:g}",
                extra={"event": "workers_without_redis"},
            )
        if is_process_layer(get_layer()):
            logger.warning(
                "A message to a group reaches the clients of one worker alone: the "
                "channel layer is %s. Use PostgresLayer or RedisLayer of "
                "connections.layers in CHANNEL_LAYERS",
                get_layer(),
                extra={"event": "workers_without_layer"},
            )
        with _explain_sockets():
            listening = _open(options)
        connections.close_all()
        folder = find_start_folder()
        parent = Parent(
            find_command(folder),
            folder=folder,
            count=options["workers"],
            listening=listening,
            pool=PoolHost(
                max_total=config.max_total_connections,
                evict_oldest=config.on_client_limit == "evict_oldest",
            ),
            drain_seconds=config.drain_seconds,
            on_ready=partial(
                self._announce,
                listening.getsockname(),
                is_secure=options["tls_cert"] is not None,
                workers=options["workers"],
            ),
        )
        exit_code = asyncio.run(parent.run())
        if exit_code:
            raise SystemExit(exit_code)

    def _check(self) -> None:
        """Raise CommandError for errors of the system checks."""
        found = [message for message in run_checks() if message.level >= ERROR]
        if found:
            raise CommandError("\n".join(["nothing is served:", *map(str, found)]))

    def _import_application(self) -> Any:
        """Return the application that ASGI_APPLICATION names."""
        from connections.server.compat import import_application

        try:
            return import_application()
        except ImproperlyConfigured as exc:
            why = exc if exc.__context__ is None else f"{exc} ({exc.__context__})"
            raise CommandError(
                f"nothing is served: {why} "
                'Set it like this: ASGI_APPLICATION = "mysite.asgi.application"'
            ) from exc

    def _announce(self, address: Any, *, is_secure: bool, workers: int = 0) -> None:
        notify_ready()
        config = get_config()
        where = str(address)
        if isinstance(address, tuple):
            host, port = address[:2]
            where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        scheme = "https and wss" if is_secure else "http and ws"
        lines = (
            f"Serving {scheme} on {where}, process {os.getpid()} "
            f"on {socket.gethostname()}{f', {workers} workers' if workers else ''}",
            f"At most {config.max_total_connections} connections, "
            f"{config.max_connections_per_client} for each client "
            f"({config.source or 'defaults'})",
            f"SIGTERM or Ctrl-C drains the node within "
            f"{config.drain.grace_seconds:g} s; a second one exits at once"
            f"{'; SIGHUP replaces the workers' if workers else ''}",
        )
        if self.stdout.isatty():
            self.stdout.write("\n".join(lines))
            self.stdout.flush()
            return
        for line in lines:  # In the format of the log.
            logger.info("%s", line, extra={"event": "serving"})
