import dataclasses
import json
import logging
import signal
import threading
from typing import Any

from django.core.management.base import CommandError, CommandParser

from connections.config.kinds import Number, Whole
from connections.config.loader import get_config
from connections.management.operator_command import OperatorCommand
from connections.management.progress import Progress
from connections.sweeper.background import INTERVAL_SECONDS, run_sweeper
from connections.sweeper.results import AllNodesSilent, SweepIncomplete, Swept
from connections.sweeper.sweeper import BATCH_SIZE, Sweeper
from connections.units import count_of

logger = logging.getLogger(__name__)

_WORDS = {
    "idle_requested": ("idle connection", "asked to end"),
    "nodes_lost": ("node", "found dead"),
    "connections_lost": ("connection", "recorded lost"),
    "connections_pruned": ("old connection", "deleted"),
    "errors_pruned": ("old error", "deleted"),
    "close_requests_pruned": ("old close request", "deleted"),
    "nodes_pruned": ("old node", "deleted"),
    "minutes_rolled": ("node minute", "rolled up"),
    "rollups_pruned": ("old minute", "deleted"),
    "hours_pruned": ("old hour", "deleted"),
    "refusals_pruned": ("old refused handshake", "deleted"),
    "alerts_pruned": ("old alert", "deleted"),
    "bans_pruned": ("ended ban", "deleted"),
    "orders_pruned": ("old node command", "deleted"),
}


class Command(OperatorCommand):
    help = (
        "Close idle connections, record those of dead nodes as lost, delete old rows."
        " Sweeps the whole cluster from any machine that reaches the database."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--once", action="store_true", help="sweep once and exit")
        self.add_number(
            parser,
            "--interval",
            Number(0.01, 86_400),
            default=INTERVAL_SECONDS,
            metavar="SECONDS",
            help="seconds between sweeps (default: %(default)s)",
        )
        self.add_number(
            parser,
            "--idle-seconds",
            Number(0.001, 1e9),
            metavar="SECONDS",
            help="close connections idle for so long (default: idle_timeout_seconds)",
        )
        self.add_number(
            parser,
            "--batch-size",
            Whole(1, 100_000),
            default=BATCH_SIZE,
            metavar="ROWS",
            help="rows per transaction (default: %(default)s)",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="only report what a sweep would do"
        )
        parser.add_argument(
            "--force",
            action="store_true",
            help="with --once: sweep even if every node seems dead",
        )
        parser.add_argument(
            "--json", action="store_true", help="print one line of JSON per sweep"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        is_single = options["once"] or options["dry_run"]
        if options["force"] and not is_single:
            raise CommandError("--force needs --once or --dry-run")
        sweeper = Sweeper(
            get_config(),
            idle_seconds=options["idle_seconds"],
            batch_size=options["batch_size"],
            is_dry=options["dry_run"],
            on_batch=Progress(self.stderr.write).advance if is_single else None,
        )
        if is_single:
            try:
                swept = sweeper.sweep_once(is_forced=options["force"])
            except SweepIncomplete as exc:
                self._report(exc.swept, options)
                raise CommandError(str(exc)) from exc
            except AllNodesSilent as exc:
                raise CommandError(str(exc)) from exc
            self._report(swept, options)
            return
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        run_sweeper(
            sweeper,
            options["interval"],
            stopping,
            self._write_json if options["json"] else Rounds().report,
        )

    def _report(self, swept: Swept, options: dict[str, Any]) -> None:
        if options["json"]:
            self._write_json(swept)
            return
        prefix = "would be: " if options["dry_run"] else ""
        self.stdout.write(prefix + (describe(swept) or "nothing to do"))

    def _write_json(self, swept: Swept) -> None:
        self.stdout.write(json.dumps(dataclasses.asdict(swept)))
        self.stdout.flush()


class Rounds:
    """The log of repeated sweeps; those that found nothing to do are not in it."""

    def __init__(self) -> None:
        self._is_leader = True

    def report(self, swept: Swept) -> None:
        if swept.is_leader != self._is_leader:
            self._is_leader = swept.is_leader
            words = "This sweeper works" if swept.is_leader else "Another sweeper works"
            logger.info(words, extra={"event": "sweeper_lead"})
        # Minutes of live nodes are rolled up all the time.
        if done := describe(dataclasses.replace(swept, minutes_rolled=0)):
            logger.info("Swept: %s", done, extra={"event": "swept"})


def describe(swept: Swept) -> str:
    """Return what a sweep has done, in words; nothing if that is nothing."""
    values = dataclasses.asdict(swept)
    done = [
        f"{count_of(values[key], noun)} {verb}"
        for key, (noun, verb) in _WORDS.items()
        if values[key]
    ]
    tasks = swept.tasks.items()
    done += [f"{count} {name.replace('_', ' ')}" for name, count in tasks if count]
    return ", ".join(done)
