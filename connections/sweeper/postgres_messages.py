"""Delete old messages of the bus and of the channel layer in PostgreSQL."""

from connections.config.loader import WebSocketConfig
from connections.models.alias import get_connection
from connections.postgres.messages import count_old, delete_old
from connections.sweeper.tasks import SweepTask, add_sweep_task


def register() -> None:
    """Register this task with the sweeper; called once, when the app is ready."""
    add_sweep_task(SweepTask(name="messages_pruned", count=_count, work=_delete))


def _count(config: WebSocketConfig) -> int:
    return _has_messages() and count_old()


def _delete(config: WebSocketConfig, batch_size: int) -> int:
    return _has_messages() and delete_old(batch_size)


def _has_messages() -> bool:
    """Return True on PostgreSQL; other databases carry no messages."""
    return get_connection().vendor == "postgresql"
