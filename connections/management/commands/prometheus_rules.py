from typing import Any

from django.core.management.base import CommandError, CommandParser

from connections.alerts.prometheus import RUNBOOK, make_rules
from connections.config.loader import get_config
from connections.exceptions import ConfigError
from connections.management.operator_command import OperatorCommand


class Command(OperatorCommand):
    help = "Print the configured alert rules as a rules file for Prometheus."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--runbook",
            default=RUNBOOK,
            metavar="URL",
            help="URL of the runbook; each rule links to its section "
            "(default: %(default)s)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        config = get_config()
        try:
            config.require_valid()
        except ConfigError as exc:
            raise CommandError(str(exc)) from exc
        self.stdout.write(make_rules(config.alerts, options["runbook"]), ending="")
