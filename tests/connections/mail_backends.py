"""Mail backends of Django for tests: one keeps mails, one is away."""

from typing import Any

import django
from django.core.mail.backends.base import BaseEmailBackend

LOCMEM = "django.core.mail.backends.locmem.EmailBackend"
BROKEN = f"{__name__}.BrokenBackend"


class BrokenBackend(BaseEmailBackend):
    """A mail server that is away."""

    def send_messages(self, messages: Any) -> int:
        raise OSError("no mail server")


def use_backend(settings: Any, path: str) -> None:
    """Have Django send mail through a backend."""
    if django.VERSION >= (6, 1):
        settings.MAILERS = {"default": {"BACKEND": path}}
    else:
        settings.EMAIL_BACKEND = path
