"""Settings of the reference application with a database router; ROUTED names it."""

import os
from typing import Any

from orchestra.settings import *  # noqa: F403

OURS = ("connections", "sessions_history")


class Apart:
    """Puts the tables of our apps, and nothing else, into a database of their own."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return "own" if model._meta.app_label in OURS else None

    db_for_write = db_for_read

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        return (app_label in OURS) == (db == "own")


class Replica:
    """Reads from a database that has the tables, and never gets a row."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "replica"

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "default"

    def allow_relation(self, one: Any, other: Any, **hints: Any) -> bool:
        return True


def _make_database(alias: str) -> dict[str, Any]:
    return {
        **DATABASES["default"],
        "TEST": {"NAME": VAR_DIR / f"test-{alias}-{os.getpid()}.sqlite3"},  # noqa: F405
    }


_ALIAS, _ROUTER = {"apart": ("own", Apart), "replica": ("replica", Replica)}[
    os.environ["ROUTED"]
]
DATABASES = {one: _make_database(one) for one in ("default", _ALIAS)}
DATABASE_ROUTERS = [_ROUTER()]
