import json
from datetime import timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from connections.access.bans import impose
from connections.config.kinds import Number
from connections.exceptions import UserAmbiguous, UserNotFound
from connections.management.operator_command import OperatorCommand
from connections.models import Ban
from connections.models.user_key import find_user
from connections.net.addresses import parse_network
from connections.units import as_stored, as_utc, show_moment

TARGETS = {"client": "ID", "user": "NAME", "address": "ADDRESS"}
"""The options that name a ban's target, and their placeholders."""


def make_ban(options: dict[str, Any], *, is_new: bool = True) -> Ban:
    """
    Return a ban of the target in the options.

    A ban that is there may be of a user who is not: the key is then its value.

    Raises:
        CommandError: there is not exactly one target, or it is no existing
            user, or no valid address.
    """
    given = [name for name in TARGETS if options[name] is not None]
    if len(given) != 1:
        raise CommandError("give exactly one of --client, --user and --address")
    value = options[given[0]]
    if given == [Ban.Target.USER]:
        try:
            value = str(find_user(value).pk)
        except UserAmbiguous as exc:
            raise CommandError(str(exc)) from exc
        except UserNotFound as exc:
            if is_new:
                raise CommandError(str(exc)) from exc
    ban = Ban(target=given[0], value=value)
    try:
        ban.clean_fields()
        if is_new or ban.target != Ban.Target.USER:
            ban.normalise()
    except ValidationError as exc:
        raise CommandError("; ".join(exc.messages)) from exc
    return ban


def select_bans(wanted: Ban, options: dict[str, Any]) -> QuerySet[Ban]:
    """
    Return the stored bans of the target in the options.

    An older version stored a single IPv6 address without its prefix length.
    """
    values = [wanted.value]
    if wanted.target == Ban.Target.ADDRESS:
        network = parse_network(options["address"])
        if network.prefixlen == network.max_prefixlen:
            values.append(str(network.network_address))
    return Ban.objects.filter(target=wanted.target, value__in=values)


def describe(ban: Ban) -> dict[str, Any]:
    """Return a ban's fields for JSON."""
    return {
        "target": ban.target,
        "value": ban.value,
        "reason": ban.reason,
        "author": ban.author,
        "created_at": as_utc(ban.created_at).isoformat(),
        "until": as_utc(ban.until).isoformat() if ban.until else None,
    }


class Command(OperatorCommand):
    help = (
        "Ban a client, user, address or network, and close its connections "
        "(4003 banned); or list the bans in force."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--client", metavar="ID", help="ban this client")
        parser.add_argument(
            "--user", metavar="NAME", help="ban this user: login name, key or key=KEY"
        )
        parser.add_argument(
            "--address",
            metavar="ADDRESS",
            help="ban this address or network, such as 192.0.2.7 or 2001:db8::/64; an "
            "IPv6 address without a prefix length stands for its /64",
        )
        parser.add_argument("--reason", default="", help="why, for other staff")
        parser.add_argument(
            "--author",
            default="manage.py ban",
            help="name of the operator (default: %(default)s)",
        )
        end = parser.add_mutually_exclusive_group()
        self.add_number(
            end,
            "--for",
            Number(0.001, 1e9),
            dest="seconds",
            metavar="SECONDS",
            help="duration of the ban (default: until it is lifted)",
        )
        end.add_argument(
            "--until", metavar="TIME", help="end of the ban, such as 2030-01-31T12:00Z"
        )
        parser.add_argument(
            "--list", action="store_true", help="list the bans in force"
        )
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
            self.write_line(f"banned: {_show(ban)}")

    def _list(self, options: dict[str, Any]) -> None:
        bans = Ban.objects.in_force()
        if any(options[name] is not None for name in TARGETS):
            one = make_ban(options, is_new=False)
            bans = bans.filter(pk__in=select_bans(one, options).values("pk"))
        if options["json"]:
            self.stdout.write(json.dumps([describe(ban) for ban in bans]))
            return
        for ban in bans:
            self.write_line(_show(ban))
        self.stdout.write(f"{len(bans)} in force")


def _find_end(options: dict[str, Any]) -> Any:
    """Return the end of a ban; None if it lasts until it is lifted."""
    now = timezone.now()
    if options["seconds"] is not None:
        return now + timedelta(seconds=options["seconds"])
    if options["until"] is None:
        return None
    try:
        until = parse_datetime(options["until"])
    except ValueError:
        until = None
    if until is None:
        raise CommandError(
            f"--until {options['until']!r} is not a time such as 2030-01-31T12:00Z"
        )
    until = as_stored(until)
    if until <= now:
        raise CommandError(f"--until {options['until']} is in the past")
    return until


def _show(ban: Ban) -> str:
    until = show_moment(ban.until) if ban.until else "lifted"
    reason = f" ({ban.reason})" if ban.reason else ""
    return f"{ban.target} {ban.value} until {until}, by {ban.author}{reason}"
