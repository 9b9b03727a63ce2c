"""Every error that this package raises, as one tree."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from connections.close_codes import UNAUTHENTICATED, CloseReason


class ConnectionsError(Exception):
    """The base of all exceptions of this package."""


class ConfigError(ConnectionsError):
    """The configuration has problems; all of them are in `problems`."""

    def __init__(self, source: str, problems: Sequence[object]) -> None:
        super().__init__(source, problems)
        self.source = source
        self.problems = tuple(problems)

    def __str__(self) -> str:
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        return f"{len(self.problems)} problem(s) in {self.source}:{lines}"


class IncompatibleDependency(ConnectionsError):
    """An installed package lacks undocumented names that this project relies on."""

    def __init__(self, package: str, version: str, missing: Sequence[str]) -> None:
        super().__init__(package, version, missing)
        self.package = package
        self.version = version
        self.missing = tuple(missing)

    def __str__(self) -> str:
        names = ", ".join(self.missing)
        return (
            f"{self.package} {self.version} cannot be used: it has no {names}."
            f" Install another version of {self.package}"
        )


class ReservedName(ConnectionsError, TypeError):
    """A consumer class uses a name that Orchestra reads for something else."""

    def __init__(self, consumer: type, name: str, expected: str) -> None:
        super().__init__(consumer, name, expected)
        self.consumer = consumer
        self.name = name
        self.expected = expected
        self.owner = next(one for one in consumer.__mro__ if name in vars(one))

    def __str__(self) -> str:
        owner, consumer = self.owner.__qualname__, self.consumer.__qualname__
        return (
            f"{owner}.{self.name} cannot be used in the consumer {consumer}: Orchestra"
            f" reads {self.name} of consumers as {self.expected}. Rename yours"
        )


class UnsharedLimits(ConnectionsError):
    """Another node is live on the database, and the two share no limits."""

    def __init__(self, other: str, *, pool: str, other_pool: str) -> None:
        super().__init__(other)
        self.other = other
        self.pool = pool
        self.other_pool = other_pool

    def __str__(self) -> str:
        if self.pool == self.other_pool == "memory":
            advice = "Use PostgreSQL, set REDIS_URL in Django's settings"
            reason = "Each has its pool in its own memory"
        else:
            advice = "Give both the same pool"
            other_pool = self.other_pool or "one of an older release"
            reason = f"Its pool is {other_pool}, and the pool of this node {self.pool}"
        return (
            f"another node serves on this database: {self.other}. {reason}, so the"
            f" limits would not hold across both. {advice}, stop the other, or allow"
            " it: websocket.allow_unshared_limits: true"
        )


class UserNotFound(ConnectionsError, ValueError):
    """No user has this text as the key or the login name."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"there is no user {self.text!r}"


class UserAmbiguous(ConnectionsError, ValueError):
    """A text names more than one user."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return (
            f"{self.text!r} is the key of one user and the login name of another; name"
            " the one that is meant by its other name, or a key as 'key=...'"
        )


class PoolError(ConnectionsError):
    """No slot was acquired."""


class PoolFull(PoolError):
    """max_total_connections slots are taken."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return f"all {self.limit} slots are taken"


class ClientFull(PoolError):
    """The client has its limit of slots and the policy is to refuse."""

    def __init__(self, client_id: str, limit: int) -> None:
        super().__init__(client_id, limit)
        self.client_id = client_id
        self.limit = limit

    def __str__(self) -> str:
        return f"the client has {self.limit} connections already"


class PoolUnavailable(PoolError):
    """The backend of the pool did not answer in time."""


class RedisUnavailable(ConnectionsError):
    """Redis did not answer in time, or refused a command."""


class ConnectionEnded(ConnectionsError):
    """
    The connection ended during accept().

    accept() raises it so that connect() does not continue on a refused
    connection. A consumer need not catch it.
    """

    def __init__(self, close_reason: CloseReason) -> None:
        super().__init__(close_reason)
        self.close_reason = close_reason

    def __str__(self) -> str:
        return f"ended with {self.close_reason.code} {self.close_reason.reason}"


class Refused(ConnectionsError):
    """
    A handshake is refused with `close_reason`.

    `client_id` is empty if the client is not known. Raised in connect(), it
    closes the connection without a slot.
    """

    def __init__(self, close_reason: CloseReason, client_id: str = "") -> None:
        super().__init__(close_reason, client_id)
        self.close_reason = close_reason
        self.client_id = client_id

    def __str__(self) -> str:
        return f"refused: {self.close_reason.reason}"


class WrongCredential(Refused):
    """
    A handshake is refused because nobody issued its token, JWT or ticket.

    A credential that has ended, and a session that does not exist, are none:
    browsers and programs send them by themselves.
    """

    def __init__(
        self, close_reason: CloseReason = UNAUTHENTICATED, client_id: str = ""
    ) -> None:
        super().__init__(close_reason, client_id)


class DatabaseUnavailable(ConnectionsError):
    """
    The database did not answer; the work may or may not have been done.

    The cache of Django's sessions, where these are in one, counts as it does.
    """


class NotMigrated(ConnectionsError):
    """Tables are missing in the database."""

    def __init__(self, missing: Collection[str], *, has_some: bool) -> None:
        super().__init__(missing, has_some)
        self.missing = frozenset(missing)
        self.has_some = has_some

    def __str__(self) -> str:
        names = ", ".join(sorted(self.missing))
        lacking = f"lacks tables ({names})" if self.has_some else "has no tables"
        return f"the database {lacking}; run manage.py migrate"


class InvalidMessage(ConnectionsError):
    """
    A message of the client is not valid; `code` is the code of the `error` message.

    `message_id` is the id that the client gave to its message, or None.
    """

    def __init__(
        self, code: str, message: str, *, message_id: str | None = None
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.message_id = message_id

    def __str__(self) -> str:
        return self.message


class UnknownEvent(ConnectionsError, ValueError):
    """
    A consumer has no method for an event of this type.

    It is a ValueError, as in Channels, and ends nothing.
    """

    def __init__(self, kind: object) -> None:
        super().__init__(kind)
        self.kind = kind

    def __str__(self) -> str:
        return f"no method for events of type {self.kind!r}"


class ProtocolViolation(ConnectionsError):
    """A client broke RFC 6455; `code` is the close code that tells it so."""

    def __init__(self, code: int, explanation: str) -> None:
        super().__init__(code, explanation)
        self.code = code
        self.explanation = explanation

    def __str__(self) -> str:
        return self.explanation


class UnsharedTransaction(ConnectionsError):
    """A test holds a transaction in the thread of its event loop."""

    def __str__(self) -> str:
        return (
            "this test holds a transaction in the thread of its event loop, so that no "
            "thread of the application can read the test's rows: mark the test with "
            "django_db(transaction=True), or make it a method of django.test.TestCase"
        )


class PresenceUnavailable(ConnectionsError):
    """
    It is not known who is present.

    The backend did not answer or has lately lost its contents, or presence is in
    the memory of another process.
    """
