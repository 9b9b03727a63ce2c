"""System checks of sessions."""

from collections.abc import Sequence
from typing import Any

from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from sessions_history.responders import get_responder_path, make_responder

_MAKING_ERRORS = (
    ArithmeticError,
    AttributeError,
    ImportError,
    ImproperlyConfigured,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""Errors of a path that names nothing, or of a responder that cannot be made."""


def check_responder(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """sessions_history.E001: what SESSIONS_RESPONDER names cannot be made."""
    try:
        responder = make_responder()
    except _MAKING_ERRORS as exc:
        problem = f"{type(exc).__name__}: {exc}"
    else:
        if responder is None or callable(getattr(responder, "respond", None)):
            return []
        problem = "it has no method respond(message, history)"
    path = get_responder_path()
    return [
        checks.Error(
            f"SESSIONS_RESPONDER is {path!r}, which cannot be used: {problem}",
            hint="Name a callable without arguments that returns a responder, "
            "such as orchestra.responders.EchoResponder.",
            obj="SESSIONS_RESPONDER",
            id="sessions_history.E001",
        )
    ]


def register() -> None:
    """Register the checks of this app; called once, when it is ready."""
    checks.register(check_responder)
