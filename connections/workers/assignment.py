"""Pass to a worker what it inherits from its parent, by its environment."""

import json
import os
from dataclasses import asdict, dataclass

from connections.workers.board import Board, Cell

_VARIABLE = "ORCHESTRA_WORKER"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """The descriptors that a worker inherits, and its cell of the board."""

    listening_fd: int
    channel_fd: int
    board_fd: int
    cell: int
    pool: str
    """The name of the pool in the parent."""

    def open_cell(self) -> Cell:
        """Return the worker's cell of the board."""
        return Cell(Board(self.board_fd), self.cell)

    def make_environment(self) -> dict[str, str]:
        """Return the environment of the worker."""
        environment = {**os.environ, _VARIABLE: json.dumps(asdict(self))}
        # The parent alone tells the service manager that all are ready.
        environment.pop("NOTIFY_SOCKET", None)
        return environment


def take_assignment() -> Assignment | None:
    """
    Return the assignment of this process, or None if it is no worker.

    The variable is removed, so that no other child of this process takes itself
    for a worker.
    """
    text = os.environ.pop(_VARIABLE, None)
    if text is None:
        return None
    # A parent of an older release names no pool: its workers name it by its process.
    known = {"pool": f"w:{os.getppid()}", **json.loads(text)}
    return Assignment(**{name: known[name] for name in Assignment.__slots__})
