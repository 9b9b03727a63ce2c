"""System check of the server that manage.py runserver runs."""

from collections.abc import Sequence
from typing import Any

from django.apps import apps
from django.core import checks

_OTHERS = ("daphne", "django.contrib.staticfiles")
"""Apps with a runserver of their own; Django takes that of the first app."""


def check_runserver(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.W021: another app's runserver hides ours."""
    names = [config.name for config in apps.get_app_configs()]
    others = [name for name in _OTHERS if name in names]
    hiding = [one for one in others if names.index(one) < names.index("connections")]
    if not hiding:
        return []
    return [
        checks.Warning(
            f"manage.py runserver is that of {hiding[0]}, which comes before "
            "connections in INSTALLED_APPS: it serves without the protections below "
            "ASGI, or no WebSockets at all.",
            hint="Put connections first in INSTALLED_APPS.",
            obj="settings",
            id="connections.W021",
        )
    ]
