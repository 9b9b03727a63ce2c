import errno
import logging
import os
import re
import socket
from argparse import ArgumentTypeError
from functools import partial
from pathlib import Path
from typing import Any

from django.core.checks import ERROR, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, CommandParser

from connections.config.kinds import Whole
from connections.config.loader import get_config
from connections.exceptions import ConfigError, IncompatibleDependency, NotMigrated
from connections.management.operator_command import OperatorCommand
from connections.server.service_manager import notify_ready
from connections.storage.database import require_tables

logger = logging.getLogger(__name__)


def _read_root_path(text: str) -> str:
    if not re.fullmatch(r"(/[^/?#\s]+)*", text):
        raise ArgumentTypeError(
            f"{text!r} is no URL prefix such as /app, without a slash at its end"
        )
    return text


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
        # Imported late: these install Twisted's reactor and import the project.
        try:
            from connections.server.compat import AccessLogGenerator
        except IncompatibleDependency as exc:
            raise CommandError(f"nothing is served: {exc}") from exc
        from connections.server.endpoints import make_tls, open_socket, take_socket
        from connections.server.server import Server
        from connections.sweeper.background import BackgroundSweeper

        application = self._import_application()
        try:
            tls = make_tls(options["tls_cert"], options["tls_key"])
            if options["fd"] is not None:
                endpoint = take_socket(options["fd"], tls)
            else:
                endpoint = open_socket(
                    options["host"],
                    options["port"],
                    reuse_port=options["reuse_port"],
                    tls=tls,
                )
            endpoints = [endpoint]
            if options["metrics_port"] is not None:
                endpoints.append(open_socket(options["host"], options["metrics_port"]))
        except (OSError, ValueError) as exc:
            is_taken = isinstance(exc, OSError) and exc.errno == errno.EADDRINUSE
            advice = "; choose another with --port (or $PORT), or --metrics-port"
            raise CommandError(f"{exc}{advice if is_taken else ''}") from exc
        access_log = options["access_log"]
        server = Server(
            application,
            endpoints=endpoints,
            action_logger=AccessLogGenerator(self.stdout) if access_log else None,
            server_name="orchestra",
            root_path=options["root_path"],
            ready_callable=partial(
                self._announce, endpoint.address, is_secure=tls is not None
            ),
        )
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

    def _announce(self, address: Any, *, is_secure: bool) -> None:
        notify_ready()
        config = get_config()
        where = str(address)
        if isinstance(address, tuple):
            host, port = address[:2]
            where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        scheme = "https and wss" if is_secure else "http and ws"
        lines = (
            f"Serving {scheme} on {where}, process {os.getpid()} "
            f"on {socket.gethostname()}",
            f"At most {config.max_total_connections} connections, "
            f"{config.max_connections_per_client} for each client "
            f"({config.source or 'defaults'})",
            f"SIGTERM or Ctrl-C drains the node within "
            f"{config.drain.grace_seconds:g} s; a second one exits at once",
        )
        if self.stdout.isatty():
            self.stdout.write("\n".join(lines))
            self.stdout.flush()
            return
        for line in lines:  # In the format of the log.
            logger.info("%s", line, extra={"event": "serving"})
