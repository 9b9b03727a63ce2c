import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.models import QuerySet

from connections.announcements import (
    MAY_RETURN,
    STAFF_REASONS,
    post_close_requests,
)
from connections.close_codes import ENDINGS
from connections.management.users import find_user
from connections.models import CloseRequest, Connection

_SELECTORS = ("client", "user", "id")


class Command(BaseCommand):
    help = "List open connections, or end some of them, on whichever node they are."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="list | kick")
        listing = verbs.add_parser("list", help="show open connections")
        listing.add_argument(
            "--limit", type=int, default=1000, help="rows (default: %(default)s)"
        )
        kick = verbs.add_parser("kick", help="end connections at once")
        kick.add_argument(
            "--reason",
            default="kicked",
            choices=STAFF_REASONS,
            help=f"what the client is told; after {MAY_RETURN} it returns, after the"
            " others not (default: %(default)s)",
        )
        kick.add_argument(
            "--spread",
            type=float,
            default=0,
            metavar="SECONDS",
            help="end each at a moment of its own within so long (default: all now)",
        )
        for verb in (listing, kick):
            verb.add_argument("--client", metavar="ID", help="of this client")
            verb.add_argument("--user", metavar="NAME", help="of this user")
            verb.add_argument("--id", metavar="ID", help="this connection")
            verb.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["user"]:
            options["user"] = find_user(options["user"]).pk
        if options["verb"] == "list":
            self._list(options)
        else:
            self._kick(options)

    def _list(self, options: dict[str, Any]) -> None:
        rows = self._select(options).order_by("opened_at")[: options["limit"]]
        found = [
            {
                "id": row.connection_id,
                "client": row.client_id,
                "user": row.user_id,
                "node": row.node_id,
                "path": row.path,
                "address": row.address,
                "opened_at": row.opened_at.isoformat(),
                "last_activity_at": row.last_activity_at.isoformat(),
            }
            for row in rows
        ]
        if options["json"]:
            self.stdout.write(json.dumps(found))
            return
        for one in found:
            columns = ("id", "client", "address", "path", "opened_at")
            self.stdout.write("  ".join(str(one[name]) for name in columns))
        self.stdout.write(f"{len(found)} open")

    def _kick(self, options: dict[str, Any]) -> None:
        given = [name for name in _SELECTORS if options[name]]
        if len(given) != 1:
            raise CommandError("kick takes one of --client, --user, --id")
        targets = {
            "client": CloseRequest.Target.CLIENT,
            "user": CloseRequest.Target.USER,
            "id": CloseRequest.Target.CONNECTION,
        }
        count = self._select(options).count()
        request = CloseRequest(
            target=targets[given[0]],
            value=str(options[given[0]]),
            reason=options["reason"],
            author="manage.py connections kick",
            spread_seconds=options["spread"],
        )
        try:
            post_close_requests(request)
        except ValueError as exc:
            raise CommandError(str(exc)) from exc
        ending = ENDINGS[options["reason"]]
        if options["json"]:
            result = {"requested": count, "code": ending.code, "reason": ending.reason}
            self.stdout.write(json.dumps(result))
        else:
            self.stdout.write(
                f"asked for the end of {count} recorded connection(s):"
                f" {ending.code} {ending.reason}"
            )

    def _select(self, options: dict[str, Any]) -> "QuerySet[Connection]":
        rows: QuerySet[Connection] = Connection.objects.open()
        if options["client"]:
            rows = rows.filter(client_id=options["client"])
        if options["user"]:
            rows = rows.filter(user_id=options["user"])
        if options["id"]:
            rows = rows.filter(connection_id=options["id"])
        return rows
