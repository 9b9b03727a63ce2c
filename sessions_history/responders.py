"""
Define the protocol of responders, which answer the messages of clients.

settings.SESSIONS_RESPONDER is the dotted path of a callable without arguments
that returns a responder. Without it messages are appended but not answered.
"""

import inspect
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from django.conf import settings
from django.utils.module_loading import import_string

from connections.deprecation import warn_renamed
from sessions_history.decisions import AskApproval, ask_nobody
from sessions_history.exceptions import SessionsError
from sessions_history.parts import Part


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

    parts: Sequence[Mapping[str, Any]] = ()
    """The parts of an answer, each with `id`, `type` and its fields; empty for an
    answer of text alone."""


class StreamState(Protocol):
    """The stream of an answer, as its responder sees it."""

    @property
    def is_cancelled(self) -> bool:
        """True once nobody needs the rest."""

    async def cancelled(self) -> None:
        """Wait until is_cancelled is True."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerContext:
    """The circumstances of a message that is answered."""

    session_id: str
    message_id: str
    """The id that the client gave to its message, or to the wish for another answer."""
    offset: int
    """The position of the answer in its session."""
    client_id: str
    """That of the owner of the session."""
    user: Any
    """The user whose message it is, a member or the owner; None for one without a
    user, or who is gone. Of a message of the first release the user of the session."""
    author: str = ""
    """The member whose message it is, such as user:5; empty of the first release."""
    replaces: int | None = None
    """The answer in whose place this one comes: it is regenerated."""
    claims: Mapping[str, Any] | None
    """The claims of the JWT that sent the message; None if somebody else regenerates
    the answer. A node has them in its memory, so an answer begun by another has None; a
    worker gets those that were stored with the message, as JSON."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What the client sent beside the message, which the log does not keep."""
    text: str = ""
    """The text that the answer has: another node wrote it, and this one goes on."""
    parts: Sequence[Mapping[str, Any]] = ()
    """The parts that the answer has, its text among them; as in HistoryMessage."""
    approval: AskApproval = ask_nobody
    """Waits for a person: `decision = await context.approval("call-1")`."""
    stream: StreamState
    """Tells whether the answer is cancelled; the node then also cancels respond()."""


class Responder(Protocol):
    """Answers messages; one object serves all sessions of a node at once."""

    def respond(
        self, message: Any, history: Sequence[HistoryMessage]
    ) -> AsyncIterator[str | Part]:
        """
        Yield the answer to a message in pieces, as they come: text and parts.

        `message` is the data of the client's message, any JSON; `history` the
        entries before it, oldest first. The messages of one session are answered
        one after the other, also across nodes, unless the responder has an
        attribute `is_concurrent` that is true. The node cancels an answer that
        the client stops, that takes longer than sessions.stream_timeout_seconds,
        or that is not done when the node stops.

        Raises:
            ResponderFailed: its text becomes the `error` of the answer. Any
                other exception is logged and sent as an internal error.
        """


class ContextualResponder(Protocol):
    """A responder whose respond() has a parameter named `context`."""

    def respond(
        self, message: Any, history: Sequence[HistoryMessage], context: AnswerContext
    ) -> AsyncIterator[str | Part]:
        """Yield the answer to a message in pieces, as Responder.respond() does."""


AnyResponder = Responder | ContextualResponder


class ResponderFailed(SessionsError):
    """
    The responder has no answer; the text tells the client why.

    With a reason, or raised from another exception, it is among the errors of the
    admin, which show the reason to staff.
    """

    reason = ""

    def __init__(self, *args: object, reason: str = "") -> None:
        super().__init__(*args)
        self.reason = reason

    def __str__(self) -> str:
        # Its docstring, or that of a subclass, is not for clients.
        return super(SessionsError, self).__str__() or "no answer"


def takes_context(responder: AnyResponder) -> bool:
    """Return True if a responder wants the context of each message."""
    return "context" in inspect.signature(responder.respond).parameters


def is_concurrent(responder: AnyResponder) -> bool:
    """Return True if a responder answers several messages of a session at once."""
    return bool(getattr(responder, "is_concurrent", False))


def is_resumable(responder: AnyResponder) -> bool:
    """
    Return True if a responder goes on with an answer that waits for a person.

    It is called again, on another node, with the text and the parts so far in its
    context, which respond() adds to.
    """
    return bool(getattr(responder, "is_resumable", False))


def make_responder() -> AnyResponder | None:
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

    respond: Callable[[Any, Sequence[HistoryMessage]], AsyncIterator[str | Part]]
