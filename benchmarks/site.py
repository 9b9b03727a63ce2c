"""The database that all compared servers share: tokens, users and sessions."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT

CLIENTS = 2_500
"""Enough clients for all connections, at five each."""

_SESSIONS = 200


class Site:
    """A folder with a migrated database and credentials."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            "DJANGO_SETTINGS_MODULE": "benchmarks.served.settings",
            "BENCHMARKS_SERVED": "bare",
            "BENCHMARKS_LAYER": "channels.layers.InMemoryChannelLayer",
            "ORCHESTRA_VAR": str(folder),
            "LOG_LEVEL": "WARNING",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }
        self.tokens: list[str] = []
        self.sessions: list[str] = []

    def prepare(self) -> None:
        """Create the database and its rows."""
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.site"],
            cwd=ROOT,
            env={**os.environ, **self.environment},
            check=True,
            capture_output=True,
            text=True,
        )
        made: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        self.tokens, self.sessions = made["tokens"], made["sessions"]


def make_site() -> "tempfile.TemporaryDirectory[str]":
    """Return a temporary folder under var/, as a context manager."""
    parent = ROOT / "var" / "benchmarks"
    parent.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True)


def _fill() -> None:
    """Migrate, and print the credentials as JSON; runs in its own process."""
    import django

    django.setup()
    from django.contrib.auth import (
        BACKEND_SESSION_KEY,
        HASH_SESSION_KEY,
        SESSION_KEY,
        get_user_model,
    )
    from django.contrib.sessions.backends.db import SessionStore
    from django.core.management import call_command
    from django.db import transaction

    from connections.credentials.tokens import create_access_token

    call_command("migrate", verbosity=0)
    with transaction.atomic():
        tokens = [
            create_access_token(f"client-{number}")[0] for number in range(CLIENTS)
        ]
        user = get_user_model().objects.create_user("someone")
        sessions = []
        for _ in range(_SESSIONS):
            session = SessionStore()
            session[SESSION_KEY] = str(user.pk)
            session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
            session[HASH_SESSION_KEY] = user.get_session_auth_hash()
            session.save()
            sessions.append(session.session_key)
    print(json.dumps({"tokens": tokens, "sessions": sessions}))


if __name__ == "__main__":
    _fill()
