import secrets
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import CommandError

from connections.credentials.tokens import create_access_token
from connections.management.operator_command import OperatorCommand
from connections.models import AccessToken

_CLIENT = "development"

_USERS = {"admin": True, "guest": False}
"""The names of the users, and whether each is staff."""


class Command(OperatorCommand):
    help = (
        "Create the staff user `admin`, the user `guest` and an access token for"
        " development, and store the secrets in files that only this user can read."
        " Needs DEBUG."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DEBUG:
            raise CommandError("this command is for development only: set DEBUG=true")
        folder = Path(settings.VAR_DIR)
        self._prepare_users(folder / "development_password")
        self._prepare_token(folder / "development_token")

    def _prepare_users(self, path: Path) -> None:
        """Create the users that are missing; they have the same password."""
        users = get_user_model()._default_manager
        is_new = not path.exists()
        if is_new:
            _write_private(path, secrets.token_urlsafe(12))
        for name, is_staff in _USERS.items():
            user, is_created = users.get_or_create(
                username=name, defaults={"is_staff": is_staff, "is_superuser": is_staff}
            )
            if is_new or is_created:
                user.set_password(path.read_text().strip())
                user.save()

    def _prepare_token(self, path: Path) -> None:
        if path.exists() and AccessToken.objects.find_all([path.read_text().strip()]):
            return
        token, _ = create_access_token(_CLIENT)
        _write_private(path, token)


def _write_private(path: Path, secret: str) -> None:
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(f"{secret}\n")
