"""The results of a sweep."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from connections.exceptions import ConnectionsError


@dataclass(slots=True, kw_only=True)
class Swept:
    """The counts of one sweep; of a dry run, what it would do."""

    is_leader: bool = True
    idle_requested: int = 0
    nodes_lost: int = 0
    connections_lost: int = 0
    connections_pruned: int = 0
    errors_pruned: int = 0
    close_requests_pruned: int = 0
    nodes_pruned: int = 0
    minutes_rolled: int = 0
    rollups_pruned: int = 0
    hours_pruned: int = 0
    alerts_pruned: int = 0
    bans_pruned: int = 0
    orders_pruned: int = 0
    refusals_pruned: int = 0
    tasks: dict[str, int] = field(default_factory=dict)
    """The counts of tasks that other packages added, by name."""


class AllNodesSilent(ConnectionsError):
    """Every node looks dead at once, most likely after an outage of the database."""

    def __str__(self) -> str:
        return (
            "every node looks dead at once, as after an outage of the database;"
            " try again later, or use --force if the nodes really are gone"
        )


class SweepIncomplete(ConnectionsError):
    """Parts of a sweep failed, and were logged; the others have run."""

    def __init__(self, parts: Sequence[str], swept: Swept) -> None:
        super().__init__(*parts)
        self.parts = tuple(parts)
        self.swept = swept

    def __str__(self) -> str:
        return "the sweep is incomplete; these parts failed: " + ", ".join(self.parts)
