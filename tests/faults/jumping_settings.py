"""
The project's settings in a process whose wall clock jumps while it runs.

SIGUSR1 puts it an hour before the true time, SIGUSR2 an hour behind: time.time(),
Django's clock, and SQLite's, which is this process's own. Monotonic clocks go on as
they do. CLOCK_JUMPED_SECONDS says where it begins.
"""

import os
import signal
import sqlite3
import time
from datetime import datetime, timedelta
from typing import Any

from django.db.backends.signals import connection_created
from django.utils import timezone

from orchestra.settings import *  # noqa: F403

JUMP_SECONDS = 3600

_jumped_seconds = int(os.environ.get("CLOCK_JUMPED_SECONDS", "0"))
_true_time, _true_now = time.time, timezone.now


def _jump(number: int, frame: object) -> None:
    global _jumped_seconds
    _jumped_seconds = JUMP_SECONDS if number == signal.SIGUSR1 else -JUMP_SECONDS


def _now() -> datetime:
    return _true_now() + timedelta(seconds=_jumped_seconds)


def _format_moment(form: str, *moment: str) -> str:
    """Do what SQLite's own strftime() does, 'now' excepted."""
    if moment == ("NOW",):
        moment = (_now().strftime("%Y-%m-%d %H:%M:%S.%f"),)
    with sqlite3.connect(":memory:") as other:
        marks = ", ?" * len(moment)
        (text,) = other.execute(
            f"select strftime(?{marks})", (form, *moment)
        ).fetchone()
    other.close()
    return str(text)


def _bend(connection: Any, **_: object) -> None:
    if connection.vendor == "sqlite":
        connection.connection.create_function("strftime", -1, _format_moment)


time.time = lambda: _true_time() + _jumped_seconds
timezone.now = _now
connection_created.connect(_bend)
signal.signal(signal.SIGUSR1, _jump)
signal.signal(signal.SIGUSR2, _jump)
