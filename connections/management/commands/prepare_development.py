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


class Command(OperatorCommand):
    help = (
        "Create the staff user `admin` and an access token for development, and"
        " store both secrets in files that only this user can read. Needs DEBUG."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DEBUG:
            raise CommandError("this command is for development only: set DEBUG=true")
        folder = Path(settings.VAR_DIR)
        self._prepare_user(folder / "development_password")
        self._prepare_token(folder / "development_token")

    def _prepare_user(self, path: Path) -> None:
        users = get_user_model()._default_manager
        if path.exists() and users.filter(username="admin").exists():
            return
        password = secrets.token_urlsafe(12)
        user, _ = users.get_or_create(
            username="admin", defaults={"is_staff": True, "is_superuser": True}
        )
        user.set_password(password)
        user.save()
        _write_private(path, password)

    def _prepare_token(self, path: Path) -> None:
        if path.exists() and AccessToken.objects.find_all([path.read_text().strip()]):
            return
        token, _ = create_access_token(_CLIENT)
        _write_private(path, token)


def _write_private(path: Path, secret: str) -> None:
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(f"{secret}\n")
