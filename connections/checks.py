"""System checks: what is wrong before anything serves."""

from collections.abc import Sequence
from typing import Any

from django.core import checks

from connections.config import get_config


def check_configuration(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.E001: the configuration has a wrong value, one message each."""
    config = get_config()
    return [
        checks.Error(
            str(problem),
            hint=f"It stands in {config.source}, or in a WEBSOCKET__ variable.",
            obj="WEBSOCKET",
            id="connections.E001",
        )
        for problem in config.problems
    ]


def register() -> None:
    """Register the checks of this app; called once, when it is ready."""
    checks.register(check_configuration)
