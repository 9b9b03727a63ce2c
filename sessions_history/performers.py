"""
What answers a client's message: the protocol that a performer keeps.

settings.SESSIONS_PERFORMER names one, as a dotted path to a callable without
arguments that returns it. Without one, messages are appended and no more.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from django.conf import settings
from django.utils.module_loading import import_string

from sessions_history.exceptions import SessionsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One entry of the history, as a performer sees it."""

    offset: int
    sender: str
    """"client" or "server"."""

    data: Any
    """What was sent; of an answer {"text": ...}, and "error" where it failed."""

    state: str
    """"done", "streaming", "cancelled", "interrupted" or "error"."""


class Performer(Protocol):
    """Answers messages; one object serves all sessions of a node at once."""

    def perform(self, message: Any, history: Sequence[Said]) -> AsyncIterator[str]:
        """
        Yield the answer to a message in pieces, as they come.

        `message` is the data of the client's message, any JSON; `history` the
        entries before it, oldest first. The node cancels what the client
        stops, what takes longer than sessions.stream_timeout_seconds, and what
        is not done when the node has to stop.

        Raises:
            PerformerFailed: its text becomes the `error` of the answer. Any
                other exception is logged, and told as an internal error.
        """


class PerformerFailed(SessionsError):
    """There is no answer; the text says why, in words for the client."""


def make_performer() -> Performer | None:
    """
    Return the performer that the settings name, or None.

    Raises:
        ImportError: there is none under that name.
    """
    path: str | None = getattr(settings, "SESSIONS_PERFORMER", None)
    if not path:
        return None
    performer: Performer = import_string(path)()
    return performer
