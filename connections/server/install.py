"""Putting our server in the place of daphne's, where daphne is what serves."""

import logging
import sys

logger = logging.getLogger(__name__)

_OTHER_SERVERS = ("uvicorn", "hypercorn", "granian")


def install() -> None:
    """
    Have daphne's command line use our Server; called by the ASGI module.

    daphne imports the application before it makes its server, so this is in
    time. Under another server nothing of Twisted is touched, and the log says
    what only our server does.
    """
    if "daphne.cli" in sys.modules:
        from daphne.cli import CommandLineInterface

        from connections.server.server import Server

        CommandLineInterface.server_class = Server
        return
    for name in _OTHER_SERVERS:
        if name in sys.modules:
            logger.warning(
                "Under %s these are not enforced: the bounds on unread and unsent "
                "bytes, handshake deadlines and limits per address, drain.*, "
                "ping_*, and aborting a stuck connection. manage.py serve, or "
                "daphne with this module, does.",
                name,
                extra={"event": "foreign_server"},
            )
