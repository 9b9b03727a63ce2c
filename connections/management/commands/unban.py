import json
from typing import Any

from django.core.management.base import CommandError, CommandParser

from connections.access.bans import lift
from connections.management.commands.ban import (
    TARGETS,
    describe,
    make_ban,
    select_bans,
)
from connections.management.operator_command import OperatorCommand


class Command(OperatorCommand):
    help = "Lift a ban, so that the client, user, address or network may connect again."

    def add_arguments(self, parser: CommandParser) -> None:
        for name, metavar in TARGETS.items():
            about = f"lift the ban of this {name}"
            if name == "user":
                about += ", by login name or as `ban --list` shows it"
            parser.add_argument(f"--{name}", metavar=metavar, help=about)
        parser.add_argument(
            "--author",
            default="manage.py unban",
            help="name of the operator (default: %(default)s)",
        )
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        wanted = make_ban(options, is_new=False)
        bans = list(select_bans(wanted, options))
        if not bans:
            raise CommandError(
                f"there is no ban of {wanted}; manage.py ban --list shows all"
            )
        for ban in bans:
            lift(ban, options["author"])
            if options["json"]:
                self.stdout.write(json.dumps(describe(ban)))
            else:
                self.write_line(f"lifted: {ban}")
