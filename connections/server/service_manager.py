"""Tell systemd that the node is ready: the protocol of sd_notify(3)."""

import logging
import os
import socket

logger = logging.getLogger(__name__)


def notify_ready() -> None:
    """
    Tell the service manager that connections are accepted.

    With Type=notify a restart of the unit takes until then, so that the next node
    is not stopped before this one serves.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # The abstract namespace of Linux.
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.connect(address)
            manager.sendall(b"READY=1")
    except OSError as exc:
        logger.warning(
            "The service manager cannot be told that the node is ready: %s",
            exc,
            extra={"event": "notify_failed"},
        )
