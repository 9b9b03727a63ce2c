"""
The life cycle of one connection: its stages and the moves between them.

docs/topics/architecture.md has the diagram; a test compares the two.
"""

from enum import Enum


class Stage(Enum):
    """A stage in the life of a connection; AsgiSender moves it."""

    CONNECTING = "connecting"
    """The consumer has neither accepted nor denied."""

    OPEN = "open"
    """The accept frame is sent, and the connection holds a slot."""

    CLOSING = "closing"
    """The close frame is sent or about to be; the client has not left."""

    STOPPED = "stopped"
    """A layer message made the consumer raise StopConsumer; its task is cancelled."""

    ABORTED = "aborted"
    """The socket is dropped and the consumer's task is cancelled."""

    CLOSED = "closed"
    """The slot is released and the end is recorded."""


MOVES: dict[Stage, frozenset[Stage]] = {
    Stage.CONNECTING: frozenset(
        (Stage.OPEN, Stage.CLOSING, Stage.ABORTED, Stage.CLOSED)
    ),
    Stage.OPEN: frozenset((Stage.CLOSING, Stage.ABORTED, Stage.CLOSED)),
    Stage.CLOSING: frozenset((Stage.STOPPED, Stage.ABORTED, Stage.CLOSED)),
    Stage.STOPPED: frozenset((Stage.CLOSED,)),
    Stage.ABORTED: frozenset((Stage.CLOSED,)),
    Stage.CLOSED: frozenset(),
}
"""The stages that may follow each stage."""
