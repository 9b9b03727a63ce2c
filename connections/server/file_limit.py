"""How many files, sockets among them, the process may have open."""

import logging
import resource

from connections.config.loader import WebSocketConfig

logger = logging.getLogger(__name__)

_SPARE_FILES = 200
"""Beside the sockets: the database, logs, modules, handshakes in progress."""


def count_needed_files(config: WebSocketConfig) -> int:
    """Return about how many files a node has open when it is full."""
    return (
        int(config.max_total_connections * 1.1)
        + config.handshake.max_pending
        + _SPARE_FILES
    )


def get_most_files() -> int | None:
    """Return to how many the process can raise its limit; None: to any number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if hard == resource.RLIM_INFINITY else hard


def raise_file_limit(config: WebSocketConfig) -> None:
    """Raise the soft limit to what is needed, or as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count_needed_files(config)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    most = get_most_files()
    granted = needed if most is None else min(needed, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (granted, hard))
    if granted < needed:
        logger.warning(
            "Only %s files may be open; max_total_connections takes about %s",
            granted,
            needed,
            extra={"event": "file_limit"},
        )
