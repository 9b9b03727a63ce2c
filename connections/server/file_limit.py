"""Raise the limit of open files, sockets included, to what the node needs."""

import logging
import resource

from connections.config.loader import WebSocketConfig

logger = logging.getLogger(__name__)

_SPARE_FILES = 200
"""Files beside the sockets and bodies: database, logs, modules."""

_PENDING_FILES = 4
"""Bounds of max_pending: heads, bodies, their files, and unanswered handshakes."""

_REQUEST_FILES = 2
"""A request under way has its socket and the file of its body."""


def count_needed_files(config: WebSocketConfig) -> int:
    """Return roughly how many files a full node has open."""
    return (
        int(config.max_total_connections * 1.1)
        + _PENDING_FILES * config.handshake.max_pending
        + _REQUEST_FILES * config.http.max_requests
        + _SPARE_FILES
    )


def get_most_files() -> int | None:
    """Return the highest limit the process can set; None: no limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if hard == resource.RLIM_INFINITY else hard


def raise_file_limit(config: WebSocketConfig) -> None:
    """Raise the soft limit to what is needed, or as far as the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count_needed_files(config)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    most = get_most_files()
    granted = needed if most is None else min(needed, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (granted, hard))
    if granted < needed:
        logger.warning(
            "Only %s files may be open; max_total_connections, handshake.max_pending "
            "and http.max_requests take about %s",
            granted,
            needed,
            extra={"event": "file_limit"},
        )
