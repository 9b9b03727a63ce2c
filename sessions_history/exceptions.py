"""Every error that this package raises, as one tree."""

from connections.exceptions import ConnectionsError


class SessionsError(ConnectionsError):
    """What this package raises on purpose."""


class SessionNotFound(SessionsError):
    """There is no such session, or it belongs to another client."""


class TooManySessions(SessionsError):
    """The client has its limit of sessions."""


class KeyReused(SessionsError):
    """The id was used before, for a message with another payload."""


class TooManyStreams(SessionsError):
    """The session has its limit of entries that stream."""


class LogFull(SessionsError):
    """More waits to be written than a node may keep."""


class EntryRefused(SessionsError):
    """The database refuses this entry, whatever stands beside it."""


class StreamEnded(SessionsError):
    """The entry streams no more: it was cancelled, or its node taken for dead."""
