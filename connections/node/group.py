"""Ask all workers of `serve --workers` about health and metrics."""

from typing import Any, Protocol


class Group(Protocol):
    """The workers of one parent, this process among them."""

    async def ask(self, subject: str) -> Any:
        """
        Return the answer of all workers.

        Raises:
            TimeoutError: the parent gave none in time.
        """


_groups: list[Group] = []


def join_group(group: Group) -> None:
    """Make this process a worker, for as long as it lives."""
    _groups[:] = [group]


def get_group() -> Group | None:
    """Return the workers of this process's parent; None without a parent."""
    return _groups[0] if _groups else None
