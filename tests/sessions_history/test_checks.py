"""A responder that cannot be used is found before anything serves."""

from typing import Any

import pytest

from sessions_history.checks import check_responder


@pytest.mark.parametrize(
    "path", [None, "", "tests.sessions_history.responding.Reverse"]
)
def test_what_can_be_used_is_no_problem(settings: Any, path: str | None) -> None:
    settings.SESSIONS_RESPONDER = path
    assert check_responder() == []


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("no.such.module", "ModuleNotFoundError"),
        ("builtins.dict", "respond"),
        ("builtins.memoryview", "TypeError"),
    ],
)
def test_what_cannot_be_used_is_named(settings: Any, path: str, problem: str) -> None:
    settings.SESSIONS_RESPONDER = path
    (found,) = check_responder()
    assert found.id == "sessions_history.E001"
    assert path in found.msg and problem in found.msg
