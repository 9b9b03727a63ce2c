"""Putting our server in the place of daphne's, where daphne is what serves."""

import logging
import sys

logger = logging.getLogger(__name__)

_OTHER_SERVERS = ("uvicorn", "hypercorn", "granian")


_TALKATIVE_LOGS = ("uvicorn.error", "uvicorn.access", "hypercorn.access")
"""The logs of other servers that hold the paths of requests, or all they read."""


def install() -> None:
    """
    Have daphne's command line use our Server; called by the ASGI module.

    daphne imports the application before it makes its server, so this is in
    time. Under another server nothing of Twisted is touched, and the log says
    what only our server does.
    """
    if "daphne.cli" in sys.modules:
        from connections.server.compat import set_server_class
        from connections.server.server import Server

        set_server_class(Server)
        return
    for name in _OTHER_SERVERS:
        if name in sys.modules:
            for log in _TALKATIVE_LOGS:
                logging.getLogger(log).addFilter(_hide_queries)
            logger.warning(
                "Under %s these are not enforced: the bounds on unread and unsent "
                "bytes, handshake deadlines and limits per address, drain.*, "
                "ping_*, and aborting a stuck connection. manage.py serve, or "
                "daphne with this module, does.",
                name,
                extra={"event": "foreign_server"},
            )


def _hide_queries(record: logging.LogRecord) -> bool:
    """
    Take the query out of a line of another server's log; it may hold a ticket.

    What such a server says at DEBUG is all that a client sends, headers and
    messages alike: that is dropped.
    """
    if isinstance(record.args, tuple):
        record.args = tuple(
            arg.partition("?")[0] if isinstance(arg, str) else arg
            for arg in record.args
        )
    return record.levelno > logging.DEBUG
