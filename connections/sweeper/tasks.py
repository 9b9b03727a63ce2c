"""Let other packages add work to the sweeper."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from connections.config.loader import WebSocketConfig


class Unfinished(int):
    """A number of rows, or of what else is counted, after which there is more to do."""


def has_more(count: int, batch_size: int) -> bool:
    """Return True if there may be more to do after a step that did so much."""
    return count >= batch_size or isinstance(count, Unfinished)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepTask:
    """Work on old rows, in transactions short enough for a database in use."""

    name: str
    """The name of its count in the sweeper's report, as streams_interrupted."""

    count: Callable[[WebSocketConfig], int]
    """Returns how many rows there are to work on."""

    work: Callable[[WebSocketConfig, int], int]
    """
    Works on at most so many rows in one transaction; returns how many. It is called
    again after so many, and after Unfinished.
    """

    waits_for_nodes: bool = False
    """
    Whether it ends what nodes did not renew: after an outage of the database they
    have node_timeout_seconds first.
    """


_tasks: dict[str, SweepTask] = {}


def add_sweep_task(task: SweepTask) -> None:
    """Add a task to every sweep; called when an app is ready."""
    _tasks[task.name] = task


def get_sweep_tasks() -> Iterator[SweepTask]:
    """Return the tasks, in the order in which they were added."""
    return iter(list(_tasks.values()))
