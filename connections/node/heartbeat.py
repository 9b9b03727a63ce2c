"""A node's row in the database: that it lives, and what it counts."""

import os
import socket
from typing import Any

from django.db.models.functions import Now
from django.utils import timezone

from connections.models import Node
from connections.storage.database import Database
from connections.version import VERSION


class NodeRow:
    """
    Written with each beat; `facts` are the columns that change.

    A node that finds its row taken for dead takes a new generation.
    """

    def __init__(self, *, node_id: str, database: Database) -> None:
        self._node_id = node_id
        self._database = database
        self._started_at = timezone.now()
        self._generation = 1
        self.is_recorded = False

    async def beat(self, facts: dict[str, Any]) -> bool:
        """
        Move the counter; return False where the row had to be written anew.

        Raises:
            DatabaseUnavailable: the database did not answer.
        """
        if await self._database.write(self._move, facts):
            return True
        # At the first beat; later, after this node was taken for dead.
        self._generation += self.is_recorded
        await self._database.write(self._write, facts)
        self.is_recorded = True
        return False

    async def stop(self, facts: dict[str, Any]) -> None:
        """
        Record that the node has stopped.

        Raises:
            DatabaseUnavailable: the database did not answer.
        """
        stopped = {"state": Node.State.STOPPED, "stopped_at": Now()}
        await self._database.write(self._write, facts | stopped)

    def _move(self, facts: dict[str, Any]) -> bool:
        """Return whether the row is known as live."""
        own = Node.objects.live().filter(
            node_id=self._node_id, generation=self._generation
        )
        return bool(own.beat(**facts))

    def _write(self, facts: dict[str, Any]) -> None:
        Node.objects.update_or_create(
            node_id=self._node_id,
            defaults={
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "version": VERSION,
                "generation": self._generation,
                "beat_at": Now(),
                "started_at": self._started_at,
                "stopped_at": None,
                **facts,
            },
        )
