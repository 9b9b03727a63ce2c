"""What of the configuration concerns sessions."""

from dataclasses import dataclass

from connections.config import get_config


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionsConfig:
    """The part of the section `websocket:` that this app reads."""

    history_limit: int
    """Entries kept of a session (max_session_history)."""


def get_sessions_config() -> SessionsConfig:
    """Return the configuration in force."""
    return SessionsConfig(history_limit=get_config().max_session_history)
