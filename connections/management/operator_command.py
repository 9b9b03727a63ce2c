"""Base of the project's commands."""

import os
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseError

from connections.audit import acting
from connections.config.kinds import Number, Whole
from connections.logs import escape
from connections.models import AuditEntry
from connections.storage.failures import explain_failure

INTERRUPTED = 130
"""Exit status of a command that SIGINT ended, as of a shell."""


class OperatorCommand(BaseCommand):
    """Report what ends the command as one line instead of a traceback."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._numbers: dict[str, tuple[str, Number | Whole]] = {}
        self._name = f"manage.py {type(self).__module__.rpartition('.')[2]}"

    def add_number(
        self, parser: Any, flag: str, kind: Number | Whole, **options: Any
    ) -> None:
        """Add an option to a parser or a group; handle() gets an allowed value."""
        number_type = int if isinstance(kind, Whole) else float
        action = parser.add_argument(flag, type=number_type, **options)
        self._numbers[action.dest] = (flag, kind)

    def execute(self, *args: Any, **options: Any) -> str | None:
        self._check_numbers(options)
        try:
            with acting(AuditEntry.Via.COMMAND, self._name):
                output = super().execute(*args, **options)
            self.stdout.flush()
        except DatabaseError as exc:
            raise CommandError(explain_failure(exc)) from exc
        except KeyboardInterrupt as exc:
            raise CommandError("interrupted", returncode=INTERRUPTED) from exc
        except BrokenPipeError:
            # The reader, such as head, has all that it wants. Python would flush
            # the rest at its exit, and fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None
        return output

    def write_line(self, text: str) -> None:
        """Write one line, which may hold the text of a client or of staff."""
        self.stdout.write(escape(text))

    def _check_numbers(self, options: dict[str, Any]) -> None:
        for name, (flag, kind) in self._numbers.items():
            value = options.get(name)
            if value is None:
                continue
            try:
                kind.parse(value)
            except ValueError as exc:
                raise CommandError(f"{flag} {value}: expected {exc}") from exc
