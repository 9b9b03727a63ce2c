"""
Define the protocol of responders, which answer the messages of clients.

settings.SESSIONS_RESPONDER is the dotted path of a callable without arguments
that returns a responder. Without it messages are appended but not answered.
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
    """One entry of the history that a responder gets."""

    offset: int
    sender: str
    """"client" or "server"."""

    data: Any
    """The payload; of an answer {"text": ...}, with "error" if it failed."""

    state: str
    """"done", "streaming", "cancelled", "interrupted" or "error"."""

    kind: str = "message"
    """Other kinds are appended by the application, such as a notice of staff."""


class Responder(Protocol):
    """Answers messages; one object serves all sessions of a node at once."""

    def respond(
        self, message: Any, history: Sequence[HistoryMessage]
    ) -> AsyncIterator[str]:
        """
        Yield the answer to a message in pieces, as they come.

        `message` is the data of the client's message, any JSON; `history` the
        entries before it, oldest first. The node cancels an answer that the
        client stops, that takes longer than sessions.stream_timeout_seconds, or
        that is not done when the node stops.

        Raises:
            ResponderFailed: its text becomes the `error` of the answer. Any
                other exception is logged and sent as an internal error.
        """


class ResponderFailed(SessionsError):
    """The responder has no answer; the text tells the client why."""


def make_responder() -> Responder | None:
    """
    Return the responder that the settings name, or None.

    Raises:
        ImportError: the path names nothing.
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
    """Adapts a responder whose method is still called perform()."""

    respond: Callable[[Any, Sequence[HistoryMessage]], AsyncIterator[str]]
