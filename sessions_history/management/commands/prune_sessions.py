import json
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone

from connections.config.kinds import Number, Whole
from connections.config.loader import get_config
from connections.management.operator_command import OperatorCommand
from connections.management.progress import Progress
from connections.sweeper.tasks import has_more
from connections.units import count_of
from sessions_history.pruning import count_prunable, prune_sessions

_BATCH_SIZE = 500


class Command(OperatorCommand):
    help = (
        "Delete the sessions that nobody used for long, with their entries, in short "
        "transactions. A sweeper does this by itself, by retention.sessions_days."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        self.add_number(
            parser,
            "--unused-days",
            Number(0.01, 36_500),
            default=get_config().retention.sessions_days,
            metavar="DAYS",
            help="unused for so long (default: retention.sessions_days, %(default)s)",
        )
        self.add_number(
            parser,
            "--batch-size",
            Whole(1, 100_000),
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
        unused_since = timezone.now() - timedelta(days=unused_days)
        count = count_prunable(unused_since)
        if not options["dry_run"]:
            progress = Progress(self.stderr.write)
            done, goes_on = 0, True
            while goes_on:
                deleted = prune_sessions(unused_since, batch_size)
                goes_on = has_more(deleted, batch_size)
                done += deleted
                progress.advance(
                    "The deletion of old sessions",
                    done,
                    lambda: count_prunable(unused_since)["rows"],
                )
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
