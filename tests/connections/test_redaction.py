"""Test that logs and records of errors hold no secrets of a handshake."""

import json
import logging
from typing import Any

import pytest

from connections.redaction import REDACTED, Redacted, conceal, redact
from tests.logged import find_records

SCOPE: dict[str, Any] = {
    "headers": [
        (b"host", b"127.0.0.1:8000"),
        (b"authorization", b"Bearer planted-in-header"),
        (b"cookie", b'sessionid=planted-in-cookie; theme=dark; q="planted \\"quoted"'),
        (b"cookie", b"second=planted-in-second"),
        (b"sec-websocket-protocol", b"chat, bearer.planted-in-protocol"),
        (b"user-agent", b"Example/1.0"),
    ],
    "query_string": b"ticket=planted%2Din-query&q=planted+with+spaces&x=1",
    "path": "/ws/chat/",
}


@pytest.mark.parametrize(
    "text",
    [
        str(SCOPE),
        repr(SCOPE["headers"]),
        "Bearer planted-in-header",
        "token planted-in-header here",
        "planted-in-cookie, planted-in-second",
        'planted "quoted',
        json.dumps("planted-in-protocol"),
        "planted%2Din-query",
        "planted-in-query",
        "planted with spaces",
        "x" * 1000 + "planted-in-header" + "x" * 1000,
    ],
)
def test_a_secret_is_redacted_in_every_form(text: str) -> None:
    redacted = redact(text, SCOPE)
    assert "planted" not in redacted
    assert REDACTED in redacted


def test_other_texts_are_unchanged() -> None:
    text = "KeyError: 'theme' is dark at /ws/chat/ for Example/1.0, chat, 1"
    assert redact(text, SCOPE) == text
    assert redact(text, {}) == text


def raised(exc: BaseException) -> BaseException:
    try:
        raise exc
    except BaseException as caught:
        return caught


def test_an_exception_without_secrets_is_logged_as_it_is() -> None:
    exc = raised(KeyError("nothing"))
    assert conceal(exc, SCOPE) is exc


def chain() -> BaseException:
    try:
        try:
            raise KeyError("planted-in-header")
        except KeyError as exc:
            raise ValueError("harmless") from exc
    except ValueError as exc:
        return exc


def noted() -> BaseException:
    exc = ValueError("harmless")
    exc.add_note("with planted-in-cookie")
    return raised(exc)


@pytest.mark.parametrize(
    "exc",
    [
        raised(ValueError(SCOPE)),
        chain(),
        noted(),
        raised(ExceptionGroup("several", [ValueError("planted-in-query")])),
    ],
)
def test_an_exception_with_secrets_is_replaced(
    exc: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """Its causes, notes and members count; its traceback remains readable."""
    concealed = conceal(exc, SCOPE)
    assert isinstance(concealed, Redacted)
    logging.getLogger("any").error("failed", exc_info=concealed)
    text = "\n".join(map(caplog.handler.format, find_records(caplog, "any")))
    assert "planted" not in text
    assert type(exc).__name__ in text
    assert "test_redaction.py" in text
