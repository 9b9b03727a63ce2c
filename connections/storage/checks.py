"""System checks of the database and of the sessions in it."""

import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from django.apps import apps
from django.conf import settings
from django.core import checks
from django.db import connections, router
from django.db.backends.base.base import BaseDatabaseWrapper

from connections.models import Connection

_DATABASES = ("sqlite", "postgresql")
_SIGNED_COOKIES = "django.contrib.sessions.backends.signed_cookies"


def check_database(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.E004: the database of these tables is not supported."""
    alias = router.db_for_write(Connection)
    vendor = connections[alias].vendor
    if vendor in _DATABASES:
        return []
    return [
        checks.Error(
            f"The database {alias!r} is {vendor}: connections would be neither "
            "recorded nor ended on request.",
            hint="Use SQLite or PostgreSQL; a database router may put the apps "
            "connections and sessions_history on a database of their own.",
            obj="settings",
            id="connections.E004",
        )
    ]


def check_router(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.E005, E006: a router separates tables that belong together."""
    models = [
        model
        for app in ("connections", "sessions_history")
        if apps.is_installed(app)
        for model in apps.get_app_config(app).get_models()
        if model._meta.managed
    ]
    aliases = sorted({router.db_for_write(model) for model in models})
    if len(aliases) > 1:
        return [
            checks.Error(
                "A database router divides the tables of connections and "
                f"sessions_history among {' and '.join(map(repr, aliases))}: their "
                "queries join them.",
                hint="Put both apps into one database.",
                obj="settings",
                id="connections.E005",
            )
        ]
    if not all(router.allow_migrate_model(aliases[0], model) for model in models):
        return [
            checks.Error(
                f"A database router sends the queries of connections to {aliases[0]!r} "
                "and allows no migrations there: the tables never exist.",
                hint="Let allow_migrate() return True for this database, and run "
                "manage.py migrate --database with its alias.",
                obj="settings",
                id="connections.E006",
            )
        ]
    return []


def check_session_engine(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.W014: the session engine stores nothing on the server."""
    if settings.SESSION_ENGINE != _SIGNED_COOKIES:
        return []
    return [
        checks.Warning(
            "SESSION_ENGINE keeps sessions in cookies: a logout ends no connection, "
            "and a session gets no tickets.",
            hint="Use another session engine, or let clients connect with tokens.",
            obj="settings",
            id="connections.W014",
        )
    ]


def check_database_files(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.W020: other users of the machine can read the SQLite file."""
    return [] if settings.DEBUG else find_readable_files(connections.all())


def find_readable_files(
    databases: Iterable[BaseDatabaseWrapper],
) -> list[checks.CheckMessage]:
    """Return a warning for each SQLite file that every user can read."""
    paths = [
        Path(one.settings_dict["NAME"])
        for one in databases
        if one.vendor == "sqlite" and not cast(Any, one).is_in_memory_db()
    ]
    readable = [
        path for path in paths if path.is_file() and path.stat().st_mode & stat.S_IROTH
    ]
    return [
        checks.Warning(
            f"Every user of this machine can read {path}, with its sessions and "
            "messages.",
            hint=f"chmod 600 {path}* (SQLite gives its -wal and -shm files the same "
            "mode).",
            obj="settings",
            id="connections.W020",
        )
        for path in readable
    ]
