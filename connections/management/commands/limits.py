import json
from datetime import datetime
from typing import Any

from django.core.management.base import CommandParser

from connections.config.kinds import Number, Whole
from connections.config.loader import get_config
from connections.forecast.report import (
    LEAST_DAYS,
    MOST_DAYS,
    describe,
    find_period,
    make_forecast,
)
from connections.forecast.simulation import ForecastLimits
from connections.management.operator_command import OperatorCommand
from connections.management.progress import Progress
from connections.units import show_moment, utc_now

_SHOWN_HOURS = 8
_WORDS = {
    "evicted": "evicted for a newer connection of their client",
    "refused_for_client": "refused, because their client was at its limit",
    "refused_for_total": "refused, because the pool was full",
    "idle": "closed as idle",
}


class Command(OperatorCommand):
    help = "Say whom limits would have affected."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="forecast")
        forecast = verbs.add_parser(
            "forecast",
            help="hold the recorded connections to limits",
            description="Hold the recorded connections of the last days to limits, "
            "those in force or others, and say which clients and connections these "
            "would have affected, and when. Reads in small steps and changes nothing.",
        )
        self.add_number(
            forecast,
            "--days",
            Number(LEAST_DAYS, MOST_DAYS),
            default=7,
            help="days until now (default: %(default)s)",
        )
        self.add_number(
            forecast,
            "--max-connections-per-client",
            Whole(1, 1_000_000),
            metavar="COUNT",
            help="another limit (default: that in force)",
        )
        self.add_number(
            forecast,
            "--max-total-connections",
            Whole(1, 10_000_000),
            metavar="COUNT",
            help="another limit (default: that in force)",
        )
        self.add_number(
            forecast,
            "--idle-timeout-seconds",
            Number(0, 604_800),
            metavar="SECONDS",
            help="another timeout, 0: never (default: that in force)",
        )
        forecast.add_argument(
            "--on-client-limit",
            choices=("evict_oldest", "refuse"),
            help="another policy at a client's limit (default: that in force)",
        )
        self.add_number(
            forecast,
            "--top",
            Whole(0, 1000),
            default=10,
            help="clients to list (default: %(default)s)",
        )
        forecast.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        config = get_config()
        given = {
            name: options[name]
            for name in ForecastLimits.__slots__
            if options[name] is not None
        }
        configured = ForecastLimits.configured(config)
        limits = ForecastLimits(
            **{
                name: given.get(name, getattr(configured, name))
                for name in ForecastLimits.__slots__
            }
        )
        start, end = find_period(options["days"], utc_now())
        progress = Progress(self.stderr.write)
        forecast = make_forecast(
            limits,
            start,
            end,
            lambda done, part: progress.advance(
                "connections", done, lambda: round(done / part) - done if part else 0
            ),
        )
        found = describe(
            forecast, limits, config, start=start, end=end, most_clients=options["top"]
        )
        if options["json"]:
            self.stdout.write(json.dumps(found, indent=2))
        else:
            self._show(found)

    def _show(self, found: dict[str, Any]) -> None:
        limits = ", ".join(f"{name} {value}" for name, value in found["limits"].items())
        lines = [
            f"{_show_moment(found['from'])} to {_show_moment(found['to'])}:"
            f" {_count(found['connections'], 'connection')}"
            f" of {_count(found['clients'], 'client')},"
            f" {_count(found['refused_handshakes'], 'refused handshake')}.",
            f"With {limits}:",
            f"{_count(found['affected_connections'], 'connection')}"
            f" of {_count(found['affected_clients'], 'client')}"
            " would have been affected.",
        ]
        lines += [
            f"  {count:>9,} {_WORDS[kind]}"
            for kind, count in found["affected"].items()
            if count
        ]
        over = found["over_rate"]
        lines.append(
            f"Over the rate in force: {_count(over['messages'], 'message')}"
            f" of {_count(over['connections'], 'connection')}."
        )
        if found["top_clients"]:
            lines.append("Clients with most affected connections:")
            for one in found["top_clients"]:
                bound = f" (at most {one['error']} too many)" if one["error"] else ""
                lines.append(f"  {one['connections']:>9,} {one['client_id']}{bound}")
        busiest = sorted(found["by_hour"], key=lambda one: -one["connections"])
        if busiest:
            lines.append("Hours with most affected connections (UTC):")
            lines += [
                f"  {one['connections']:>9,} {one['hour'][:13].replace('T', ' ')}:00"
                for one in busiest[:_SHOWN_HOURS]
            ]
        lines += [f"Note: {note}" for note in found["notes"]]
        for line in lines:
            self.write_line(line)


def _show_moment(text: str) -> str:
    return show_moment(datetime.fromisoformat(text))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
