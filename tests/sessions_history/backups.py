"""Back the rows of the log up, and restore them."""

from typing import Any

from asgiref.sync import sync_to_async
from django.db import transaction

from sessions_history.commits import commit
from sessions_history.entries import Request
from sessions_history.models import (
    AppendKey,
    EntryChunk,
    HistoryEntry,
    Session,
    Work,
)
from tests.sessions_history.appends import LIMITS

TABLES: tuple[Any, ...] = (
    Session,
    HistoryEntry,
    EntryChunk,
    AppendKey,
    Work,
)


class Backup:
    """The rows of the log at one moment."""

    def __init__(self) -> None:
        self._rows = [list(table.objects.all()) for table in TABLES]

    def restore(self, *requests: Request) -> None:
        """Put the rows back, and commit requests before anybody can look."""
        with transaction.atomic():
            Session.objects.all().delete()
            for table, rows in zip(TABLES, self._rows, strict=True):
                table.objects.bulk_create(rows)
            for request in requests:
                commit([request], LIMITS)


make_backup = sync_to_async(Backup)


async def restore(backup: Backup, *requests: Request) -> None:
    await sync_to_async(backup.restore)(*requests)
