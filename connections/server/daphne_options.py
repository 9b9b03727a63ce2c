"""Warn about options of daphne that the configuration replaces."""

import logging
from typing import Any

logger = logging.getLogger(__name__)

_DAPHNE_DEFAULTS = {
    "ping_interval": 20,
    "ping_timeout": 30,
    "websocket_connect_timeout": 5,
    "websocket_max_message_size": 1024 * 1024,
    "websocket_max_frame_size": 1024 * 1024,
    "proxy_forwarded_address_header": None,
}
"""Options without effect, with the defaults of daphne's command line."""

_CONFIG_KEYS = {
    "ping_interval": "ping_interval_seconds",
    "ping_timeout": "ping_timeout_seconds",
    "websocket_connect_timeout": "handshake.timeout_seconds",
    "websocket_max_message_size": "max_message_size",
    "websocket_max_frame_size": "max_message_size",
    "proxy_forwarded_address_header": "trusted_proxies",
}


def warn_of_ignored(options: dict[str, Any]) -> None:
    """Log each option that was given and has no effect."""
    for name, default in _DAPHNE_DEFAULTS.items():
        value = options.get(name, default)
        if value != default:
            logger.warning(
                "daphne's %s=%s has no effect: websocket.%s decides",
                name,
                value,
                _CONFIG_KEYS[name],
                extra={"event": "flag_ignored"},
            )
