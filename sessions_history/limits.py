"""Hold the limits of the log that every commit enforces."""

from dataclasses import dataclass

from sessions_history import work
from sessions_history.quotas import StorageQuota


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLimits:
    """Limits that every commit enforces."""

    node_id: str
    history_limit: int
    max_open_streams: int
    lease_seconds: float = 15
    timeout_seconds: float = 600
    storage: StorageQuota | None = None
    max_sessions: int = 0
    replaces_unused: bool = False
    leaves_answers: bool = False
    """Answers wait for a worker, and the limit per client is that of the database."""
    max_open_streams_per_client: int = 32

    @property
    def terms(self) -> work.Terms:
        """The terms of this node's work."""
        return work.Terms(
            owner=self.node_id,
            lease_seconds=self.lease_seconds,
            timeout_seconds=self.timeout_seconds,
            leaves_answers=self.leaves_answers,
        )
