"""Define what a person decided about a tool call, and how a responder asks."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

APPROVED, INTERRUPTED = "approved", "interrupted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The end of the wait for a person."""

    state: str
    """"approved", "denied", "expired" if nobody decided in time, or "interrupted": it
    was approved, and a node that has died since may have run the tool."""
    by: str = ""
    """The member who decided, such as user:5."""
    note: str = ""
    """What the member wrote about it."""

    @property
    def is_approved(self) -> bool:
        """True if the tool may run."""
        return self.state == APPROVED


class AskApproval(Protocol):
    """Asks a person about a tool call."""

    def __call__(
        self, part_id: str, *, timeout_seconds: float | None = None
    ) -> Awaitable[Decision]:
        """
        Wait until a person approves or denies a tool call that was yielded before.

        Without timeout_seconds sessions.approval_timeout_seconds bounds the wait,
        which then ends as expired. The time of the answer stands still meanwhile.
        A call that was decided is not asked again. Another node may go on with the
        answer if the responder has an attribute `is_resumable` that is true; an
        approval that the former node has taken is interrupted there.

        Raises:
            ValueError: the answer has no such tool call, or it is asked already, or
                the time is not positive.
        """


async def ask_nobody(part_id: str, *, timeout_seconds: float | None = None) -> Decision:
    """Refuse to ask: the context belongs to no answer of a log."""
    raise RuntimeError("a context that no log made cannot ask for an approval")
