import json
import re
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils.dateparse import parse_datetime

from connections.audit import describe
from connections.management.operator_command import OperatorCommand
from connections.models import AuditEntry
from connections.models.alias import stream
from connections.units import as_stored, show_moment


class Command(OperatorCommand):
    help = "Export what staff, commands, the API and rules did, the oldest first."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="export")
        export = verbs.add_parser("export", help="print the audit stream")
        export.add_argument(
            "--since",
            metavar="TIME",
            help="only entries from then on, such as 2030-01-31 or 2030-01-31T12:00Z",
        )
        export.add_argument(
            "--until", metavar="TIME", help="only entries before this moment"
        )
        export.add_argument("--action", help="only this action, such as ban")
        export.add_argument("--actor", help="only actions of this user or command")
        export.add_argument(
            "--json", action="store_true", help="print one line of JSON per entry"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        rows = AuditEntry.objects.order_by("id")
        if options["since"] is not None:
            rows = rows.filter(at__gte=_read_moment("--since", options["since"]))
        if options["until"] is not None:
            rows = rows.filter(at__lt=_read_moment("--until", options["until"]))
        for name in ("action", "actor"):
            if options[name] is not None:
                rows = rows.filter(**{name: options[name]})
        for entry in stream(rows):
            if options["json"]:
                self.stdout.write(json.dumps(describe(entry)))
                continue
            reason = f" ({entry.reason})" if entry.reason else ""
            self.write_line(
                f"{show_moment(entry.at)}  {entry.actor or '-'} via {entry.via}:"
                f" {entry}{reason}"
            )


def _read_moment(flag: str, text: str) -> Any:
    try:
        # parse_datetime() takes a date too, as midnight in TIME_ZONE.
        is_date = re.fullmatch(r"\d{4}-\d\d-\d\d", text)
        moment = parse_datetime(f"{text}T00:00Z" if is_date else text)
    except ValueError:
        moment = None
    if moment is None:
        raise CommandError(
            f"{flag} {text!r} is not a time such as 2030-01-31 or 2030-01-31T12:00Z"
        )
    return as_stored(moment)
