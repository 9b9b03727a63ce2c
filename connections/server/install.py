"""Replace daphne's server by ours where daphne serves."""

import logging
import sys

_TALKATIVE_LOGS = ("uvicorn.error", "uvicorn.access", "hypercorn.access")
"""Loggers of other servers that write request paths, or all received bytes."""


def install() -> None:
    """
    Have daphne's command line use our Server; the ASGI module calls it.

    daphne imports the application before it makes its server, so the call comes
    in time. Under another server Twisted stays untouched. Its node names at its
    start what only our server protects.
    """
    if "daphne.cli" in sys.modules:
        from connections.server.compat import set_server_class
        from connections.server.server import Server

        set_server_class(Server)
        return
    for log in _TALKATIVE_LOGS:
        logging.getLogger(log).addFilter(_hide_queries)


def _hide_queries(record: logging.LogRecord) -> bool:
    """
    Remove the query from a line of another server's log; it may hold a ticket.

    DEBUG lines of such a server hold headers and messages of clients: they are
    dropped.
    """
    if isinstance(record.args, tuple):
        record.args = tuple(
            arg.partition("?")[0] if isinstance(arg, str) else arg
            for arg in record.args
        )
    return record.levelno > logging.DEBUG
