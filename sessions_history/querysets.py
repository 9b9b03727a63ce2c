"""Queries by name; every one runs on SQLite and PostgreSQL alike."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from django.db import models

from connections.models import Node

if TYPE_CHECKING:
    from sessions_history.models import (  # noqa: F401 (named in bases only)
        HistoryEntry,
        Session,
    )


class SessionQuerySet(models.QuerySet["Session"]):
    def unused_since(self, moment: datetime) -> SessionQuerySet:
        """Sessions that nobody attached to or wrote to since a moment."""
        return self.filter(last_seen_at__lt=moment)


class HistoryEntryQuerySet(models.QuerySet["HistoryEntry"]):
    def streaming(self) -> HistoryEntryQuerySet:
        """Entries that still grow, as far as the database knows."""
        return self.filter(state="streaming")

    def abandoned(self) -> HistoryEntryQuerySet:
        """Entries that will grow no more: their node has stopped, or is lost."""
        live = Node.objects.live().values("node_id")
        return self.streaming().exclude(node__in=live)
