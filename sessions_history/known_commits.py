"""
Keep the commits of one log that a node knows of, until the log was compared.

Each commit names the one before it, so commits in a row prove each other. A commit
with an unknown one before it may belong to another log: the database went back in
time, and grew again. Then the log is in doubt until it was read.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sessions_history.chain import Mark


@dataclass(slots=True, eq=False)
class Run:
    """Commits in a row, of which the newest proves the others."""

    before: Mark | None
    """The commit before the first one, if it is known."""
    newest: Mark


Compared = Sequence[tuple[Run, Mark]]
"""The newest commit of each run at one moment."""


class KnownCommits:
    """The commits that the log has to have; more than one run is a doubt."""

    def __init__(self) -> None:
        self._runs: list[Run] = []

    @property
    def is_doubted(self) -> bool:
        """Return True if the known commits may be of two logs."""
        return len(self._runs) > 1

    def get(self) -> Compared:
        """Return what has to be compared with the log."""
        return [(run, run.newest) for run in self._runs]

    def learn(
        self, mark: Mark | None, previous: Mark | None, *, is_repeated: bool = False
    ) -> None:
        """
        Record a commit of the log, and the commit before it if there was one.

        One that appended at a known offset is a doubt, whatever was before it.
        """
        if mark is None or self._find(mark):
            return
        run = None if is_repeated else self._find(previous)
        if run is None:
            run = Run(previous, mark)
            self._runs.append(run)
        run.newest = mark
        self._join(run)

    def learn_newer(self, mark: Mark | None) -> None:
        """Record the commit of an entry that was read, unless it may be an old one."""
        if mark is None or self._find(mark):
            return
        newest = find_newest(run.newest for run in self._runs)
        if newest is None or mark.number >= newest.number:
            self.learn(mark, None)

    def confirm(self, compared: Compared, newest: Mark | None) -> None:
        """Record that the log had some commits, and its newest one at that moment."""
        if not compared:
            self.learn_newer(newest)
            return
        last, known = max(compared, key=lambda one: one[1].number)
        for run, mark in compared:
            # A run that grew meanwhile is compared again.
            if run is not last and run.newest is mark and run in self._runs:
                self._runs.remove(run)
        if last.newest is known and newest is not None:
            last.newest = newest
            self._join(last)

    def _find(self, mark: Mark | None) -> Run | None:
        for run in self._runs:
            if run.newest.is_commit_of(mark):
                return run
        return None

    def _join(self, run: Run) -> None:
        """Add the run that follows on, and remove one with the same end."""
        for other in self._runs:
            if other is not run and (
                run.newest.is_commit_of(other.before)
                or run.newest.is_commit_of(other.newest)
            ):
                run.newest = other.newest
                self._runs.remove(other)
                return


def find_newest(marks: Iterable[Mark]) -> Mark | None:
    """Return the mark of the last commit of some."""
    return max(marks, key=lambda mark: mark.number, default=None)
