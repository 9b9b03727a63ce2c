import json
from typing import Any

from django.core.management.base import CommandError, CommandParser

from connections.management.operator_command import OperatorCommand
from connections.units import count_of
from sessions_history.epochs import renew_epochs
from sessions_history.models import Session

_BATCH_SIZE = 500
_COLUMNS = {"session": "session_id", "client": "client_id"}


class Command(OperatorCommand):
    help = "Act on the logs of sessions."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        renew = actions.add_parser(
            "renew_epoch",
            help="begin a new epoch after a backup was restored or a replica promoted: "
            "returning clients get the whole log anew, as `reset`",
        )
        renew.add_argument("--session", metavar="ID", help="of one session alone")
        renew.add_argument("--client", metavar="ID", help="of one client's sessions")
        renew.add_argument(
            "--dry-run", action="store_true", help="say how many would be renewed"
        )
        renew.add_argument("--json", action="store_true", help="one JSON line")

    def handle(self, *args: Any, **options: Any) -> None:
        found = Session.objects.all()
        given = [name for name in _COLUMNS if options[name] is not None]
        for name in given:
            if not options[name]:
                raise CommandError(f"--{name} is empty: leave it out for all sessions")
            found = found.filter(**{_COLUMNS[name]: options[name]})
        if options["dry_run"]:
            count = found.count()
        else:
            count = renew_epochs(found, _BATCH_SIZE)
        if not count and given:
            raise CommandError("there is no such session")
        if options["json"]:
            self.stdout.write(json.dumps({"sessions": count}))
            return
        verb = "would get" if options["dry_run"] else "got"
        self.stdout.write(f"{count_of(count, 'session')} {verb} a new epoch")
