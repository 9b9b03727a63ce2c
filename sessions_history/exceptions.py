"""Define every error that this package raises, as one tree."""

from connections.exceptions import ConnectionsError


class SessionsError(ConnectionsError):
    """Base class of the errors of this package."""


class SessionNotFound(SessionsError):
    """The session does not exist, or belongs to another client."""


class TooManySessions(SessionsError):
    """The client has its limit of sessions."""


class StorageFull(SessionsError):
    """The client stores as many entries or bytes as it may."""


class KeyReused(SessionsError):
    """The message id was used before with another payload."""


class TooManyStreams(SessionsError):
    """The session, the client or the node has its limit of streaming entries."""


class LogFull(SessionsError):
    """More requests wait for the database than a node may keep."""


class EntryRefused(SessionsError):
    """The database refuses this entry, also alone."""


class ChunksLost(SessionsError):
    """The log lacks the text before a chunk: the database went back in time."""


class StreamEnded(SessionsError):
    """The entry no longer streams: it was cancelled, or its node counts as dead."""
