"""System checks of the server: manage.py runserver, and another one than ours."""

import os
from collections.abc import Sequence
from typing import Any

from django.apps import apps
from django.core import checks

from connections.config.loader import get_config
from connections.node.other_server import read_environment
from connections.pool import choose_pool, get_redis_url

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


def check_other_server(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.W027, for `check --deploy`: variables of uvicorn or gunicorn."""
    config = get_config()
    settings = read_environment(os.environ)
    found = [] if settings is None else list(settings.find_differences(config))
    workers = os.environ.get("WEB_CONCURRENCY", "")
    is_shared = choose_pool(config, get_redis_url()) != "memory"
    if workers.isdecimal() and int(workers) > 1 and not is_shared:
        found.append(
            f"WEB_CONCURRENCY starts {workers} workers, and the pool is memory: with"
            " protect() all but one refuse to start, without it each counts on its"
            " own."
        )
    return [
        checks.Warning(
            f"Under uvicorn: {message}",
            hint="The variables of this environment say so; options of a command line"
            " are unknown here, and the log of the server names them at its start.",
            obj="environment",
            id="connections.W027",
        )
        for message in found
    ]
