"""Base of the commands that need the database."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseError

from connections.storage.failures import explain_failure


class DatabaseCommand(BaseCommand):
    """Report a database error as one line instead of a traceback."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except DatabaseError as exc:
            raise CommandError(explain_failure(exc)) from exc
