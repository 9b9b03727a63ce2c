import json
from datetime import datetime
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from connections.alerts.email import find_recipients
from connections.alerts.runbook import read_sections
from connections.alerts.self_test import run_self_test
from connections.config.alert_rules import DEFAULT_RULES, format_value
from connections.config.loader import get_config
from connections.exceptions import ConfigError
from connections.management.operator_command import OperatorCommand
from connections.models import Alert
from connections.units import as_utc, show_moment

_SHOWN = 20


class Command(OperatorCommand):
    help = "Show pending, firing and recently resolved alerts."

    def add_arguments(self, parser: CommandParser) -> None:
        modes = parser.add_mutually_exclusive_group()
        modes.add_argument(
            "--rules", action="store_true", help="show the alert rules in force"
        )
        modes.add_argument(
            "--runbook",
            metavar="RULE",
            choices=[rule.name for rule in DEFAULT_RULES],
            help="show what an alert means and what to do",
        )
        modes.add_argument(
            "--self-test",
            action="store_true",
            help="let every rule fire and resolve on test rows, and send its e-mails",
        )
        parser.add_argument(
            "--without-mail",
            action="store_true",
            help="with --self-test: send no e-mails",
        )
        parser.add_argument(
            "--json", action="store_true", help="print one line of JSON per item"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["without_mail"] and not options["self_test"]:
            raise CommandError("--without-mail needs --self-test")
        try:
            get_config().require_valid()
        except ConfigError as exc:
            raise CommandError(str(exc)) from exc
        if options["runbook"]:
            self.stdout.write(read_sections()[options["runbook"]])
        elif options["rules"]:
            self._show_rules(options)
        elif options["self_test"]:
            self._test(options)
        else:
            self._show_alerts(options)

    def _show_alerts(self, options: dict[str, Any]) -> None:
        listed = Alert.objects.filter(is_test=False).order_by("-since")
        alerts = [*listed.open(), *listed.filter(state=Alert.State.RESOLVED)[:_SHOWN]]
        for alert in alerts:
            if options["json"]:
                self._write_json(
                    rule=alert.rule,
                    state=alert.state,
                    severity=alert.severity,
                    value=alert.value,
                    peak=alert.peak,
                    threshold=alert.threshold,
                    detail=alert.detail,
                    since=_format(alert.since),
                    fired_at=_format(alert.fired_at),
                    resolved_at=_format(alert.resolved_at),
                    mail_error=alert.mail_error,
                )
                continue
            ended_at = alert.resolved_at or timezone.now()
            seconds = (ended_at - alert.since).total_seconds()
            self.write_line(
                f"{alert.state:<9} {alert.severity:<9} {alert.rule:<24} "
                f"{format_value(alert.rule, alert.value)} "
                f"(peak {format_value(alert.rule, alert.peak)}, threshold "
                f"{format_value(alert.rule, alert.threshold)}) for {seconds:.0f} s "
                f"since {show_moment(alert.since)}"
                f"{': ' + alert.detail if alert.detail else ''}"
            )
        if not alerts and not options["json"]:
            self.stdout.write("no alert is pending or firing")

    def _show_rules(self, options: dict[str, Any]) -> None:
        for rule in get_config().alerts:
            values = {
                "threshold": rule.threshold,
                "clear": rule.clear,
                "for_seconds": rule.for_seconds,
                "minimum": rule.minimum,
                "severity": rule.severity,
                "enabled": rule.enabled,
            }
            if options["json"]:
                self._write_json(name=rule.name, about=rule.about, **values)
                continue
            text = ", ".join(f"{key}: {value}" for key, value in values.items())
            self.stdout.write(f"{rule.name}: {rule.about}\n    {text}")

    def _test(self, options: dict[str, Any]) -> None:
        config = get_config()
        with_mail = not options["without_mail"]
        if with_mail and not find_recipients(config):
            self.stderr.write(
                "no e-mails are sent: alert_recipients and ADMINS are empty"
            )
        failed = 0
        for one in run_self_test(config, with_mail=with_mail):
            failed += bool(one.problem)
            if options["json"]:
                self._write_json(
                    rule=one.rule, value=one.value, mails=one.mails, problem=one.problem
                )
            else:
                verdict = one.problem or f"fired at {one.value:.4g}, resolved"
                self.stdout.write(f"{one.rule}: {verdict}, {one.mails} mails")
        if failed:
            raise CommandError(f"{failed} rules failed")

    def _write_json(self, **values: Any) -> None:
        self.stdout.write(json.dumps(values))


def _format(moment: datetime | None) -> str | None:
    return None if moment is None else as_utc(moment).isoformat()
