"""System checks of consumers outside protect(), and of what they lack."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError
from django.utils.module_loading import import_string

from connections.connection.routes import find_routes, get_application_path, is_limited
from connections.connection.unprotected import COSTS
from connections.storage.database import find_missing_tables


def check_routes(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.W024, W025: consumers that are routed without protect()."""
    path = get_application_path()
    try:
        application = import_string(path)
    except Exception as exc:
        if not getattr(settings, "ASGI_APPLICATION", None):
            return []  # The project names none, and may have none.
        return [
            checks.Warning(
                f"{path} cannot be imported, so its routes are not checked: {exc}",
                hint="Name the application in ASGI_APPLICATION, or mend its import.",
                obj="settings",
                id="connections.W025",
            )
        ]
    return [
        checks.Warning(
            f"{one.consumer_class.__name__} on the route {one.name!r} is served "
            f"without protect(): {COSTS}. Under another server than manage.py serve "
            "the protections below ASGI are missing too.",
            hint="Route it with connections.routing.protect(), or silence this check.",
            obj=path,
            id="connections.W024",
        )
        for one in find_routes(application)
        if not one.is_protected and is_limited(one.consumer_class)
    ]


def check_tables(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.W026, for `check --deploy`: nothing can be recorded."""
    try:
        missing, _ = find_missing_tables()
    except (DatabaseError, ImproperlyConfigured):
        return []  # Other checks report a database that does not answer.
    if not missing:
        return []
    return [
        checks.Warning(
            f"Tables are missing: {', '.join(sorted(missing))}. serve does not start, "
            "and under another server limits hold without records, kicks, bans and "
            "dashboard.",
            hint="Run manage.py migrate.",
            obj="connections",
            id="connections.W026",
        )
    ]
