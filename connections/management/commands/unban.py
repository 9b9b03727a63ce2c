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
            parser.add_argument(
                f"--{name}", metavar=metavar, help=f"lift the ban of this {name}"
            )
        parser.add_argument(
            "--author",
            default="manage.py unban",
            help="name of the operator (default: %(default)s)",
        )
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        wanted = make_ban(options)
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
                self.stdout.write(f"lifted: {ban}")
