import json
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from connections.config.loader import get_config
from connections.management.database_command import DatabaseCommand
from connections.units import count_of
from sessions_history.pruning import count_prunable, prune_sessions

_BATCH_SIZE = 500


class Command(DatabaseCommand):
    help = (
        "Delete the sessions that nobody used for long, with their entries, in short "
        "transactions. A sweeper does this by itself, by retention.sessions_days."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--unused-days",
            type=float,
            default=get_config().retention.sessions_days,
            metavar="DAYS",
            help="unused for so long (default: retention.sessions_days, %(default)s)",
        )
        parser.add_argument(
            "--batch-size",
            type=int,
            default=_BATCH_SIZE,
            metavar="ROWS",
            help="rows per transaction (default: %(default)s)",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="say what would be deleted"
        )
        parser.add_argument("--json", action="store_true", help="one JSON line")

    def handle(self, *args: Any, **options: Any) -> None:
        unused_days: float = options["unused_days"]
        batch_size: int = options["batch_size"]
        if unused_days < 0:
            raise CommandError("--unused-days must be 0 or more")
        if batch_size < 1:
            raise CommandError("--batch-size must be 1 or more")
        unused_since = timezone.now() - timedelta(days=unused_days)
        count = count_prunable(unused_since)
        if not options["dry_run"]:
            while prune_sessions(unused_since, batch_size) == batch_size:
                continue
            left = count_prunable(unused_since)
            count = {key: count[key] - left[key] for key in count}
        if options["json"]:
            self.stdout.write(json.dumps(count))
            return
        verb = "would be deleted" if options["dry_run"] else "deleted"
        self.stdout.write(
            f"{count_of(count['sessions'], 'session')}, "
            f"{count_of(count['rows'], 'row')} in all, {verb}"
        )
