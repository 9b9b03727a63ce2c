import os
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError

from connections.management.operator_command import OperatorCommand

_VARIABLES = ("DJANGO_SUPERUSER_USERNAME", "DJANGO_SUPERUSER_PASSWORD")


class Command(OperatorCommand):
    help = (
        "Create a superuser from DJANGO_SUPERUSER_USERNAME, _PASSWORD and _EMAIL, as "
        "`createsuperuser --noinput` does; do nothing if there is a superuser."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        users = get_user_model()._default_manager
        if users.filter(is_superuser=True).exists():
            self.stdout.write("there is a superuser already")
            return
        name, password = (os.environ.get(variable, "") for variable in _VARIABLES)
        if not name or not password:
            raise CommandError(f"set {' and '.join(_VARIABLES)}")
        try:
            validate_password(password)
        except ValidationError as exc:
            raise CommandError(
                f"DJANGO_SUPERUSER_PASSWORD: {' '.join(exc.messages)}"
            ) from exc
        email = os.environ.get("DJANGO_SUPERUSER_EMAIL", "")
        users.create_superuser(username=name, email=email, password=password)
        self.stdout.write(f"created the superuser {name}")
