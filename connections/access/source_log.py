"""Log once which peers of handshakes name no client, or are not trusted."""

import logging

from connections.net.addresses import Source
from connections.privacy import show_address

logger = logging.getLogger(__name__)

NO_ADDRESS = (
    "Clients over a Unix socket have no address: no limit counts them apart, and "
    "anonymous ones are one client. Let the proxy send X-Forwarded-For, and list unix "
    "in trusted_proxies."
)


class SourceLog:
    """Logs once that a peer is not trusted, or that it names no client."""

    def __init__(self) -> None:
        self._has_warned = False
        self._has_named_unknown = False

    def record(self, source: Source) -> None:
        """Log the source of a handshake if it is the first of its kind."""
        if not source.address and not self._has_named_unknown:
            self._has_named_unknown = True
            logger.warning(NO_ADDRESS, extra={"event": "no_client_address"})
        if source.is_forwarded_by_stranger and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "Forwarded headers from %s are ignored: not in trusted_proxies",
                show_address(source.address),
                extra={"event": "forwarded_header_ignored"},
            )
