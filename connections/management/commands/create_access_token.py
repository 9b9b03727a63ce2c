from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from connections.credentials.identity import check_client_id
from connections.credentials.tokens import create_access_token
from connections.management.database_command import DatabaseCommand
from connections.models.user_key import get_users


class Command(DatabaseCommand):
    help = "Create an access token and print it; it cannot be shown again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--client",
            required=True,
            metavar="ID",
            help="client_id of the token's connections",
        )
        parser.add_argument(
            "--user", metavar="NAME", help="Django user of the token's connections"
        )
        parser.add_argument(
            "--expires-in",
            type=float,
            metavar="SECONDS",
            help="lifetime of the token (default: until it is revoked)",
        )
        parser.add_argument(
            "--scope",
            action="append",
            metavar="PATH",
            help="path for which the token is valid (and all below it), or a route; "
            "repeatable (default: all routes)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        client_id: str = options["client"]
        expires_in: float | None = options["expires_in"]
        if expires_in is not None and expires_in <= 0:
            raise CommandError("--expires-in must be more than 0 seconds")
        user = None
        if options["user"]:
            users = get_user_model()
            try:
                user = get_users().get_by_natural_key(options["user"])
            except users.DoesNotExist as exc:
                raise CommandError(f"there is no user {options['user']!r}") from exc
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
