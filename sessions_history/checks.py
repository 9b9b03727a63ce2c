"""System checks of sessions."""

from collections.abc import Sequence
from typing import Any

from django.core import checks

from connections.config.loader import get_config
from sessions_history.responders import get_responder_path, make_responder


def check_responder(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """sessions_history.E001: what SESSIONS_RESPONDER names cannot be made."""
    try:
        responder = make_responder()
    except Exception as exc:
        # Whatever it is: a check that fails ends every command with its traceback.
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
            "such as chat.responders.UpperResponder.",
            obj="SESSIONS_RESPONDER",
            id="sessions_history.E001",
        )
    ]


def check_answered_by(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """sessions_history.W001: workers are to answer, without SESSIONS_RESPONDER."""
    if get_config().sessions.answered_by != "workers" or get_responder_path():
        return []
    return [
        checks.Warning(
            "sessions.answered_by is 'workers', but SESSIONS_RESPONDER is not set:"
            " no message is answered",
            hint="Set SESSIONS_RESPONDER, or leave sessions.answered_by out.",
            obj="WEBSOCKET",
            id="sessions_history.W001",
        )
    ]


def register() -> None:
    """Register the checks of this app; called once, when it is ready."""
    checks.register(check_responder)
    checks.register(check_answered_by)
