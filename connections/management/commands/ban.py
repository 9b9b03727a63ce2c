import json
from datetime import timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from connections.access.bans import impose
from connections.management.database_command import DatabaseCommand
from connections.management.users import find_user
from connections.models import Ban

TARGETS = {"client": "ID", "user": "NAME", "address": "ADDRESS"}
"""The options that say whom a ban means, and what each takes."""


def make_ban(options: dict[str, Any]) -> Ban:
    """
    Return a ban of whom the options name, its value as bans store it.

    Raises:
        CommandError: none is named, or more than one; or there is no such user,
            or it is no address.
    """
    given = [name for name in TARGETS if options[name] is not None]
    if len(given) != 1:
        raise CommandError("name one of --client, --user, --address")
    value = options[given[0]]
    if given == [Ban.Target.USER]:
        value = str(find_user(value).pk)
    ban = Ban(target=given[0], value=value)
    try:
        ban.clean_fields()
        ban.clean()
    except ValidationError as exc:
        raise CommandError("; ".join(exc.messages)) from exc
    return ban


def describe(ban: Ban) -> dict[str, Any]:
    """Return a ban as JSON shows it."""
    return {
        "target": ban.target,
        "value": ban.value,
        "reason": ban.reason,
        "author": ban.author,
        "created_at": ban.created_at.isoformat(),
        "until": ban.until.isoformat() if ban.until else None,
    }


class Command(DatabaseCommand):
    help = (
        "Keep a client, a user, an address or a network out, and end their "
        "connections (4003 banned); or list who is kept out."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--client", metavar="ID")
        parser.add_argument("--user", metavar="NAME")
        parser.add_argument(
            "--address",
            metavar="ADDRESS",
            help="192.0.2.7, 2001:db8::/64, 192.0.2.0/24",
        )
        parser.add_argument("--reason", default="", help="for staff to read")
        parser.add_argument(
            "--author", default="manage.py ban", help="who asked (%(default)s)"
        )
        end = parser.add_mutually_exclusive_group()
        end.add_argument("--for", dest="seconds", type=float, metavar="SECONDS")
        end.add_argument("--until", metavar="TIME", help="2030-01-31T12:00Z")
        parser.add_argument("--list", action="store_true", help="show bans in force")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["list"]:
            self._list(options)
            return
        ban = make_ban(options)
        ban.reason, ban.author = options["reason"], options["author"]
        ban.until = _find_end(options)
        try:
            ban.clean_fields()
        except ValidationError as exc:
            raise CommandError(f"--reason or --author: {exc}") from exc
        impose(ban)
        if options["json"]:
            self.stdout.write(json.dumps(describe(ban)))
        else:
            self.stdout.write(f"banned: {_show(ban)}")

    def _list(self, options: dict[str, Any]) -> None:
        bans = Ban.objects.in_force()
        if any(options[name] is not None for name in TARGETS):
            one = make_ban(options)
            bans = bans.filter(target=one.target, value=one.value)
        if options["json"]:
            self.stdout.write(json.dumps([describe(ban) for ban in bans]))
            return
        for ban in bans:
            self.stdout.write(_show(ban))
        self.stdout.write(f"{len(bans)} in force")


def _find_end(options: dict[str, Any]) -> Any:
    """Return when a ban ends; None if it does not by itself."""
    now = timezone.now()
    if options["seconds"] is not None:
        if not 0 < options["seconds"] <= 1e9:
            raise CommandError("--for takes more than 0 and at most 1e9 seconds")
        return now + timedelta(seconds=options["seconds"])
    if options["until"] is None:
        return None
    try:
        until = parse_datetime(options["until"])
    except ValueError:
        until = None
    if until is None:
        raise CommandError(
            f"--until {options['until']!r} is no time such as 2030-01-31T12:00Z"
        )
    if timezone.is_naive(until):
        until = timezone.make_aware(until)
    if until <= now:
        raise CommandError(f"--until {options['until']} is over already")
    return until


def _show(ban: Ban) -> str:
    until = ban.until.isoformat(timespec="seconds") if ban.until else "lifted"
    reason = f" ({ban.reason})" if ban.reason else ""
    return f"{ban.target} {ban.value} until {until}, by {ban.author}{reason}"
