"""A responder that cannot be used is found before anything serves."""

from typing import Any

import pytest

from sessions_history.checks import check_responder


class NoLicense(Exception):
    """A library of a model may raise an error of its own."""


class Broken:
    def __init__(self) -> None:
        raise NoLicense("expired")


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
        ("orchestra.responders.CompletionsResponder", "localhost:11434/v1"),
        (f"{__name__}.Broken", "NoLicense: expired"),
    ],
)
def test_what_cannot_be_used_is_named(
    settings: Any, monkeypatch: pytest.MonkeyPatch, path: str, problem: str
) -> None:
    """A base URL without a scheme is one of them."""
    monkeypatch.setenv("COMPLETIONS_BASE_URL", "localhost:11434/v1")
    monkeypatch.setenv("COMPLETIONS_MODEL", "m")
    settings.SESSIONS_RESPONDER = path
    (found,) = check_responder()
    assert found.id == "sessions_history.E001"
    assert path in found.msg and problem in found.msg
