import json
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser
from django.core.serializers.json import DjangoJSONEncoder
from django.db.models import QuerySet
from django.utils import timezone

from connections.announcements import (
    MAY_RETURN,
    MOST_SPREAD_SECONDS,
    STAFF_REASONS,
    post_close_requests,
)
from connections.close_codes import CLOSE_REASONS
from connections.config.kinds import Number, Whole
from connections.dashboard.charts.scales import format_seconds
from connections.logs import escape
from connections.management.lookups import find_node_id, find_user
from connections.management.operator_command import OperatorCommand
from connections.management.top import ask_nodes, rank_all
from connections.management.top import describe as describe_top
from connections.management.top import tabulate as tabulate_top
from connections.models import CloseRequest, Connection, Node
from connections.models.user_key import with_user
from connections.node.top import CAPACITY, MEASURES, MOST_MINUTES
from connections.units import as_utc, show_moment

_COLUMNS = (
    *("id", "client", "user", "address", "path", "node"),
    *("opened at", "idle at most", "errors"),
)
_RECORDED_WITHIN_SECONDS = 2
_SELECTORS = ("client", "user", "id", "node")


class Command(OperatorCommand):
    help = "List, show, rank or close connections, on all nodes."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(
            dest="verb", required=True, metavar="list | show | top | kick"
        )
        listing = verbs.add_parser(
            "list",
            help="show open connections",
            description="Show open connections, the oldest first. Activity is recorded "
            "to a tenth of the idle timeout, so a connection is idle for at most the "
            "time shown.",
        )
        self.add_number(
            listing,
            "--limit",
            Whole(1),
            default=1000,
            help="most rows to list (default: %(default)s)",
        )
        show = verbs.add_parser(
            "show", help="show one connection with its errors and flight record"
        )
        show.add_argument(
            "ref",
            help="the `ref` in an error message of a client, or a connection's id",
        )
        show.add_argument("--json", action="store_true", help="print JSON")
        kick = verbs.add_parser("kick", help="close connections")
        kick.add_argument(
            "--reason",
            default="kicked",
            choices=STAFF_REASONS,
            help=f"reason sent to the client; it reconnects only after {MAY_RETURN}"
            " (default: %(default)s)",
        )
        kick.add_argument(
            "--author",
            default="manage.py connections kick",
            help="name of the operator (default: %(default)s)",
        )
        kick.add_argument("--note", default="", help="why, for other staff")
        self.add_number(
            kick,
            "--spread",
            Number(0, MOST_SPREAD_SECONDS),
            default=0,
            metavar="SECONDS",
            help="close the connections over this time (default: all at once)",
        )
        top = verbs.add_parser(
            "top",
            help="rank clients, addresses and routes over all nodes; a number that is"
            " not exact is shown with its bounds",
        )
        top.add_argument(
            "--by",
            default="connections",
            choices=MEASURES,
            help="what is ranked: open connections now, or what was counted in the"
            " last minutes (default: %(default)s)",
        )
        self.add_number(
            top,
            "--minutes",
            Whole(1, MOST_MINUTES),
            default=5,
            help=f"minutes to count, 1 to {MOST_MINUTES} (default: %(default)s)",
        )
        self.add_number(
            top,
            "--limit",
            Whole(1, CAPACITY),
            dest="most_rows",
            metavar="LIMIT",
            default=10,
            help=f"rows of each table, 1 to {CAPACITY} (default: %(default)s)",
        )
        top.add_argument("--json", action="store_true", help="print JSON")
        for verb in (listing, kick):
            verb.add_argument(
                "--client", metavar="ID", help="connections of this client"
            )
            verb.add_argument(
                "--user",
                metavar="NAME",
                help="connections of this user, by login name, key or key=KEY",
            )
            verb.add_argument(
                "--id", metavar="ID", help="only this connection, or that of this ref"
            )
            verb.add_argument(
                "--node",
                metavar="ID",
                help="connections on this node, named as in a list or in a log line",
            )
            verb.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["verb"] == "show":
            self._show(options)
            return
        if options["verb"] == "top":
            self._rank(options)
            return
        if options["user"]:
            options["user"] = find_user(options["user"]).pk
        if options["node"]:
            options["node"] = find_node_id(options["node"])
        if options["id"] and (row := Connection.objects.find(options["id"])):
            options["id"] = row.pk
        if options["verb"] == "list":
            self._list(options)
        else:
            self._kick(options)

    def _rank(self, options: dict[str, Any]) -> None:
        answers = ask_nodes()
        by, minutes, limit = (options[name] for name in ("by", "minutes", "most_rows"))
        tops = rank_all(answers, by, minutes, limit)
        if options["json"]:
            self.stdout.write(json.dumps(describe_top(answers, tops, options)))
            return
        for line in tabulate_top(answers, tops, by):
            self.write_line(line)

    def _list(self, options: dict[str, Any]) -> None:
        limit = options["limit"]
        selected = self._select(options)
        ordered = with_user(selected).order_by("opened_at", "connection_id")
        rows = list(ordered[:limit])
        now = timezone.now()
        found = [
            {
                "id": row.connection_id,
                "client": row.client_id,
                "user": row.user_id,
                "node": row.node_id,
                "path": row.path,
                "address": row.address,
                "opened_at": as_utc(row.opened_at).isoformat(),
                "last_activity_at": as_utc(row.last_activity_at).isoformat(),
                "idle_seconds": _measure_idle(row, now),
                "errors": row.errors,
            }
            for row in rows
        ]
        if options["json"]:
            self.stdout.write(json.dumps(found, cls=DjangoJSONEncoder))
            return
        for line in _tabulate(rows, now):
            self.stdout.write(line)
        # Connections may have ended between the two queries.
        count = max(selected.count(), len(rows)) if len(rows) == limit else len(rows)
        of_all = f" of {count}" if count > len(rows) else ""
        self.stdout.write(f"{len(rows)}{of_all} open")

    def _show(self, options: dict[str, Any]) -> None:
        ref = options["ref"]
        row = Connection.objects.find(ref)
        if row is None:
            raise CommandError(
                f"{ref!r} is no recorded connection or error;"
                " records older than the retention are deleted"
            )
        found = describe(row)
        if options["json"]:
            self.stdout.write(json.dumps(found, cls=DjangoJSONEncoder))
            return
        flight = found.pop("flight")
        errors = found.pop("error_events")
        for name, value in found.items():
            self.write_line(f"{name:17} {value}")
        for error in errors:
            line = "  ".join(str(error[name]) for name in ("at", "id", "exception"))
            self.write_line(f"{'error':17} {line}  {error['where']}")
        if flight is None:
            self.stdout.write(
                "no flight record: the connection is open, or ended normally"
            )
        for one in flight or ():
            times = f" x{one['count']}" if "count" in one else ""
            what = f"{one['event']} {one.get('detail', '')}".rstrip()
            self.write_line(f"{one['after_seconds']:>13.3f} s   {what}{times}")

    def _kick(self, options: dict[str, Any]) -> None:
        given = [name for name in _SELECTORS if options[name]]
        if len(given) != 1:
            flags = ", ".join(f"--{name}" for name in _SELECTORS)
            raise CommandError(f"kick needs exactly one of {flags}")
        targets = {
            "client": CloseRequest.Target.CLIENT,
            "user": CloseRequest.Target.USER,
            "id": CloseRequest.Target.CONNECTION,
            "node": CloseRequest.Target.NODE,
        }
        count = self._count_recorded(options)
        request = CloseRequest(
            target=targets[given[0]],
            value=str(options[given[0]]),
            reason=options["reason"],
            author=options["author"],
            note=options["note"],
            spread_seconds=options["spread"],
        )
        try:
            request.clean_fields()
        except ValidationError as exc:
            raise CommandError("; ".join(exc.messages)) from exc
        post_close_requests(request)
        close_reason = CLOSE_REASONS[options["reason"]]
        if options["json"]:
            result = {
                "requested": count,
                "code": close_reason.code,
                "reason": close_reason.reason,
            }
            self.stdout.write(json.dumps(result))
        else:
            self.stdout.write(
                f"requested the close of {count} recorded connection(s):"
                f" {close_reason.code} {close_reason.reason}"
            )
        if not count:
            raise CommandError(
                f"no open connection with this {given[0]} is recorded; the nodes were "
                "asked all the same"
            )

    def _count_recorded(self, options: dict[str, Any]) -> int:
        """Count the selected connections; a new one is recorded within a second."""
        deadline = time.monotonic() + _RECORDED_WITHIN_SECONDS
        while not (count := self._select(options).count()):
            if time.monotonic() >= deadline:
                break
            time.sleep(0.1)
        return count

    def _select(self, options: dict[str, Any]) -> "QuerySet[Connection]":
        rows: QuerySet[Connection] = Connection.objects.open()
        if options["client"]:
            rows = rows.filter(client_id=options["client"])
        if options["user"]:
            rows = rows.filter(user_id=options["user"])
        if options["id"]:
            rows = rows.filter(connection_id=options["id"])
        if options["node"]:
            rows = rows.filter(node_id=options["node"])
        return rows


def _measure_idle(row: Connection, now: datetime) -> float:
    return max(0.0, round((now - row.last_activity_at).total_seconds(), 1))


def _tabulate(rows: Sequence[Connection], now: datetime) -> Iterator[str]:
    """Yield a header and a line for each row, in columns."""
    if not rows:
        return
    # No join: connections outlive the rows of deleted nodes.
    nodes = Node.objects.in_bulk({row.node_id for row in rows})
    cells: list[tuple[str, ...]] = [_COLUMNS]
    for row in rows:
        texts = (
            row.connection_id,
            row.client_id,
            row.user.get_username() if row.user else "-",
            row.address or "-",
            row.path,
            str(nodes.get(row.node_id, row.node_id)),
            show_moment(row.opened_at),
            format_seconds(_measure_idle(row, now)),
            str(row.errors),
        )
        cells.append(tuple(map(escape, texts)))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        padded = map(str.ljust, line, widths)
        yield "  ".join(padded).rstrip()


def describe(row: Connection) -> dict[str, Any]:
    """Return a connection's record for JSON."""
    return {
        "id": row.connection_id,
        "client": row.client_id,
        "user": row.user_id,
        "node": row.node_id,
        "path": row.path,
        "address": row.address,
        "user_agent": row.user_agent,
        "transport": row.transport,
        "opened_at": as_utc(row.opened_at).isoformat(),
        "last_activity_at": as_utc(row.last_activity_at).isoformat(),
        "closed_at": as_utc(row.closed_at).isoformat() if row.closed_at else None,
        "close_code": row.close_code,
        "reason": row.reason,
        "messages_in": row.messages_in,
        "messages_out": row.messages_out,
        "errors": row.errors,
        "error_events": [
            {
                "id": error.error_id,
                "at": as_utc(error.at).isoformat(),
                "exception": error.exception_class,
                "where": error.where,
            }
            for error in row.error_events.order_by("at")
        ],
        "flight": row.flight,
    }
