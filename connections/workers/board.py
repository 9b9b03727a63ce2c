"""Share the number of each worker's connections in memory, without messages."""

import mmap
import os
import tempfile

_CELLS = 256
"""Twice the most workers: while one drains, its successor serves already."""

_NOT_ACCEPTING = -1


class Cell:
    """The cell of one worker, and its view of the others."""

    def __init__(self, board: "Board", number: int) -> None:
        self._board = board
        self._number = number

    def publish(self, connections: int) -> None:
        """Write the number of connections of this worker."""
        self._board.publish(self._number, connections)

    def leave(self) -> None:
        """Write that this worker accepts no more connections."""
        self._board.leave(self._number)

    def find_least(self) -> int | None:
        """Return the least number of another worker that accepts, or None."""
        return self._board.find_least(self._number)


class Board:
    """
    One number for each worker: its connections, or that it accepts none.

    Each worker writes its own cell; a number of eight bytes is read and written
    whole.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._memory = mmap.mmap(fd, _CELLS * 8)
        self._cells = memoryview(self._memory).cast("q")

    @classmethod
    def create(cls) -> "Board":
        """Return a new board, whose descriptor workers inherit."""
        # The file outlives its object as long as its map and its descriptor.
        with tempfile.TemporaryFile() as file:
            file.write(_NOT_ACCEPTING.to_bytes(8, "little", signed=True) * _CELLS)
            file.flush()
            return cls(os.dup(file.fileno()))

    def publish(self, cell: int, connections: int) -> None:
        """Write the number of connections of a worker that accepts more."""
        self._cells[cell] = connections

    def leave(self, cell: int) -> None:
        """Write that a worker accepts no more connections, or has ended."""
        self._cells[cell] = _NOT_ACCEPTING

    def find_least(self, own_cell: int) -> int | None:
        """Return the least number of another worker that accepts, or None."""
        others = (
            count
            for cell, count in enumerate(self._cells.tolist())
            if cell != own_cell and count != _NOT_ACCEPTING
        )
        return min(others, default=None)
