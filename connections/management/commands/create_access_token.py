from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from connections.config.kinds import Number
from connections.credentials.identity import API_SCOPES, check_client_id
from connections.credentials.tokens import create_access_token
from connections.management.lookups import find_by_login_name
from connections.management.operator_command import OperatorCommand


class Command(OperatorCommand):
    help = "Create an access token and print it; it cannot be shown again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--client",
            required=True,
            metavar="ID",
            help="client_id of the token's connections",
        )
        parser.add_argument(
            "--user",
            metavar="NAME",
            help="Django user of the token's connections, by login name",
        )
        self.add_number(
            parser,
            "--expires-in",
            Number(0.001, 1e9),
            metavar="SECONDS",
            help="lifetime of the token (default: until it is revoked)",
        )
        parser.add_argument(
            "--scope",
            action="append",
            metavar="PATH",
            help="path for which the token is valid (and all below it), or a route, or"
            f" a scope of the operators' API ({', '.join(API_SCOPES)});"
            " repeatable (default: all routes, and no API)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        client_id: str = options["client"]
        expires_in: float | None = options["expires_in"]
        name = options["user"]
        user = find_by_login_name(name) if name else None
        expires_at = None
        if expires_in is not None:
            expires_at = timezone.now() + timedelta(seconds=expires_in)
        try:
            check_client_id(client_id, user)
        except ValueError as exc:
            raise CommandError(f"--client: {exc}") from exc
        try:
            token, _ = create_access_token(
                client_id,
                user=user,
                scopes=options["scope"] or (),
                expires_at=expires_at,
            )
        except ValueError as exc:
            raise CommandError(f"--scope: {exc}") from exc
        self.stdout.write(token)
