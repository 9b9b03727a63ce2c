"""
What answers a client's message: the protocol that a responder keeps.

settings.SESSIONS_RESPONDER names one, as a dotted path to a callable without
arguments that returns it. Without one, messages are appended and no more.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from django.conf import settings
from django.utils.module_loading import import_string

from connections.deprecation import warn_renamed
from sessions_history.exceptions import SessionsError


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryMessage:
    """One entry of the history, as a responder sees it."""

    offset: int
    sender: str
    """"client" or "server"."""

    data: Any
    """What was sent; of an answer {"text": ...}, and "error" where it failed."""

    state: str
    """"done", "streaming", "cancelled", "interrupted" or "error"."""


class Responder(Protocol):
    """Answers messages; one object serves all sessions of a node at once."""

    def respond(
        self, message: Any, history: Sequence[HistoryMessage]
    ) -> AsyncIterator[str]:
        """
        Yield the answer to a message in pieces, as they come.

        `message` is the data of the client's message, any JSON; `history` the
        entries before it, oldest first. The node cancels what the client
        stops, what takes longer than sessions.stream_timeout_seconds, and what
        is not done when the node has to stop.

        Raises:
            ResponderFailed: its text becomes the `error` of the answer. Any
                other exception is logged, and told as an internal error.
        """


class ResponderFailed(SessionsError):
    """There is no answer; the text says why, in words for the client."""


def make_responder() -> Responder | None:
    """
    Return the responder that the settings name, or None.

    Raises:
        ImportError: there is none under that name.
    """
    path = get_responder_path()
    if not path:
        return None
    responder = import_string(path)()
    if not hasattr(responder, "respond") and hasattr(responder, "perform"):
        warn_renamed(f"{path}.perform()", "respond()")
        return _RespondsByPerforming(responder.perform)
    return cast(Responder, responder)


def get_responder_path() -> str | None:
    """Return the setting SESSIONS_RESPONDER, or SESSIONS_PERFORMER, its old name."""
    path: str | None = getattr(settings, "SESSIONS_RESPONDER", None)
    if path:
        return path
    path = getattr(settings, "SESSIONS_PERFORMER", None)
    if path:
        warn_renamed("The setting SESSIONS_PERFORMER", "SESSIONS_RESPONDER")
    return path


@dataclass(frozen=True, slots=True)
class _RespondsByPerforming:
    """A responder whose method has its name of before 0.2."""

    respond: Callable[[Any, Sequence[HistoryMessage]], AsyncIterator[str]]
