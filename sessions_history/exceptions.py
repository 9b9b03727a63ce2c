"""Define every error that this package raises, as one tree."""

from connections.exceptions import ConnectionsError


class SessionsError(ConnectionsError):
    """Base class of the errors of this package; without a text, its docstring."""

    def __str__(self) -> str:
        first, _, _ = (type(self).__doc__ or "").strip().partition("\n")
        return super().__str__() or first


class SessionNotFound(SessionsError):
    """The session does not exist, or the client has no role in it."""


class TooManySessions(SessionsError):
    """The client has its limit of sessions."""


class StorageFull(SessionsError):
    """The client stores as many entries or bytes as it may."""


class MemberNotFound(SessionsError):
    """The user is no member of the session."""


class OwnerStays(SessionsError):
    """The owner keeps the role until the session is handed over to a member."""


class TooManyMembers(SessionsError):
    """The session has as many members and open invitations as it may have."""


class InvitationInvalid(SessionsError):
    """
    The invitation cannot be redeemed.

    `reason` is "unknown", "expired", "revoked" or "used".
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the invitation is {self.reason}"


class AnswerNotFound(SessionsError):
    """No answer is at this offset, or the log does not keep its message any more."""


class NoResponder(SessionsError):
    """Nothing answers messages here: the server has no responder."""


class AnswerUnfinished(SessionsError):
    """The answer is not finished: stop it first."""


class AnswerReplaced(SessionsError):
    """
    The answer was replaced before.

    `offset` is that of the entry that replaced it.
    """

    def __init__(self, offset: int) -> None:
        super().__init__(offset)
        self.offset = offset

    def __str__(self) -> str:
        return f"the answer was replaced by the entry {self.offset}: regenerate that"


class ApprovalNotFound(SessionsError):
    """No tool call of an answer that is under way waits for a person here."""


class ApprovalDecided(SessionsError):
    """
    The tool call was decided before, in another way.

    `state` is "approved", "denied" or "expired", `by` the member who decided.
    """

    def __init__(self, state: str, by: str) -> None:
        super().__init__(state, by)
        self.state = state
        self.by = by

    def __str__(self) -> str:
        by = f" by {self.by}" if self.by else ""
        return f"the tool call is {self.state} already{by}"


class KeyReused(SessionsError):
    """The message id was used before with another payload."""


class StaleProducer(SessionsError):
    """Another start of the producer has a higher epoch, `epoch`."""

    def __init__(self, epoch: int) -> None:
        super().__init__(epoch)
        self.epoch = epoch

    def __str__(self) -> str:
        return f"another start of the producer has the higher epoch {self.epoch}"


class SequenceGap(SessionsError):
    """Appends of the producer are missing: `expected` is the next sequence number."""

    def __init__(self, expected: int) -> None:
        super().__init__(expected)
        self.expected = expected

    def __str__(self) -> str:
        return f"appends of the producer are missing: the next is {self.expected}"


class EpochBegunLate(SessionsError):
    """The first append of a new epoch of the producer has the sequence number 0."""


class AppendedBefore(SessionsError):
    """The append was taken before; `sequence` is the producer's last one."""

    def __init__(self, sequence: int) -> None:
        super().__init__()
        self.sequence = sequence


class TooManyStreams(SessionsError):
    """The session, the client or the node has its limit of streaming entries."""


class InTransaction(SessionsError):
    """
    This thread has a transaction open: write once it is committed.

    SQLite lets one transaction write at a time, and a test that rolls back hides its
    rows; transaction.on_commit() calls a function after the commit.
    """


class LogFull(SessionsError):
    """More requests wait for the database than a node may keep."""


class EntryRefused(SessionsError):
    """The database refuses this entry, also alone."""


class ChunksLost(SessionsError):
    """The log lacks the text before a chunk: the database went back in time."""


class EntryTooLarge(SessionsError):
    """The entry is larger than max_message_size."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(size, limit)
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"the entry has {self.size} bytes, and max_message_size allows {self.limit}"
        )


class StreamBusy(SessionsError):
    """Another task writes the stream of this key, and renews its lease."""


class StreamFinished(SessionsError):
    """
    The stream of this key is finished: nothing more is written.

    `state` is that of its entry, "done" or "cancelled", or "trimmed" if the session
    does not keep the entry any more.
    """

    def __init__(self, state: str, offset: int) -> None:
        super().__init__(state, offset)
        self.state = state
        self.offset = offset

    def __str__(self) -> str:
        is_now = f"its entry {self.offset} is {self.state}"
        return f"the stream of this key is finished: {is_now}"


class StreamEnded(SessionsError):
    """The entry no longer streams: it was cancelled, or its producer counts as dead."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(*[reason] if reason else [])

    def __str__(self) -> str:
        text = super().__str__()
        return f"the stream has ended: {text}" if self.args else text
