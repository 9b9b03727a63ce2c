"""Commands that talk to the database, for operators to whom it may not answer."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseError

from connections.storage.failures import explain_failure


class DatabaseCommand(BaseCommand):
    """A command that says in one line what the database has against it."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except DatabaseError as exc:
            raise CommandError(explain_failure(exc)) from exc
