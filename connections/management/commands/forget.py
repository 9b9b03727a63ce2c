import json
import time
from typing import Any

from django.core.management.base import CommandError, CommandParser

from connections.config.kinds import Number
from connections.config.loader import get_config
from connections.exceptions import PresenceUnavailable
from connections.management.lookups import add_person, find_person
from connections.management.operator_command import INTERRUPTED, OperatorCommand
from connections.management.progress import Progress
from connections.models import ForgetRequest
from connections.personal_data.person import Person
from connections.personal_data.tables import count
from connections.sweeper.forgetting import begin, erase, find_open

_POLL_SECONDS = 0.2


class Command(OperatorCommand):
    help = (
        "Erase a user or a client: end its connections, delete its sessions, tokens,"
        " tickets and bans, and keep its connection records under a pseudonym."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        add_person(parser)
        self.add_number(
            parser,
            "--wait",
            Number(0, 3600),
            default=30,
            metavar="SECONDS",
            help="how long to wait for the end of its connections"
            " (default: %(default)s)",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="count the rows, and change nothing"
        )
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        person = find_person(options)
        counts = count(person)
        if not any(counts.values()):
            raise CommandError("nothing is recorded about this person")
        if options["dry_run"]:
            self._report(counts, "would be forgotten", options)
        elif done := self._forget(person, options["wait"]):
            self._report(done, "forgotten", options)
        elif options["json"]:
            self.stdout.write(json.dumps({"forgotten_by": "sweeper"}))
        else:
            self.stdout.write("forgotten, by a sweeper")

    def _report(
        self, counts: dict[str, int], word: str, options: dict[str, Any]
    ) -> None:
        if options["json"]:
            self.stdout.write(json.dumps(counts))
            return
        for name, rows in counts.items():
            if rows:
                self.stdout.write(f"{rows:>9,} {name.replace('_', ' ')}")
        self.stdout.write(word)

    def _forget(self, person: Person, wait_seconds: float) -> dict[str, int]:
        """Erase a person; return the rows by table, none if a sweeper did it."""
        request = begin(person)
        self._wait_for_ends(request, wait_seconds)
        try:
            # A sweeper may have erased some of the rows, or all.
            # By the manager: Django would ask the router, which may name a replica.
            request.refresh_from_db(
                fields=["counts"], from_queryset=ForgetRequest.objects.all()
            )
        except ForgetRequest.DoesNotExist:
            return {}
        progress = Progress(self.stderr.write)
        try:
            return erase(request, get_config(), progress.advance)
        except PresenceUnavailable as exc:
            raise CommandError(
                f"{exc}; a sweeper forgets the person when it answers again"
            ) from exc

    def _wait_for_ends(self, request: ForgetRequest, wait_seconds: float) -> None:
        """
        Wait until the nodes have recorded the end of the person's connections.

        Raises:
            CommandError: connections are still open.
        """
        deadline = time.monotonic() + wait_seconds
        while left := find_open(request).count():
            if time.monotonic() >= deadline:
                request.delete()
                raise CommandError(
                    f"{left} connection(s) are still open; nothing was forgotten."
                    " Try again when a sweeper has recorded those of dead nodes"
                )
            try:
                time.sleep(_POLL_SECONDS)
            except KeyboardInterrupt as exc:
                request.delete()
                raise CommandError(
                    "interrupted; nothing was forgotten", returncode=INTERRUPTED
                ) from exc
