"""System checks of sessions."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core import checks

from sessions_history.performers import make_performer


def check_performer(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """sessions_history.E001: what SESSIONS_PERFORMER names cannot be made."""
    try:
        performer = make_performer()
    except Exception as exc:
        problem = f"{type(exc).__name__}: {exc}"
    else:
        if performer is None or callable(getattr(performer, "perform", None)):
            return []
        problem = "it has no method perform(message, history)"
    path = settings.SESSIONS_PERFORMER
    return [
        checks.Error(
            f"SESSIONS_PERFORMER is {path!r}, which cannot be used: {problem}",
            hint="Name a callable without arguments that returns a performer, "
            "such as orchestra.performers.EchoPerformer.",
            obj="SESSIONS_PERFORMER",
            id="sessions_history.E001",
        )
    ]


def register() -> None:
    """Register the checks of this app; called once, when it is ready."""
    checks.register(check_performer)
