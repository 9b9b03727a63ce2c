"""Test that log records name their connection, as text and as JSON."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client

from connections import logs
from connections.consumers import LimitedConsumer
from connections.testing.communicators import connect_to, make_node

logger = logging.getLogger("project.chat")


class Talkative(LimitedConsumer):
    """Logs records of several loggers."""

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        logger.info("a message of %s characters", len(text_data or ""))


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """The output of a handler with the filter and formatter of this package."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(logs.ContextFilter())
    handler.addFilter(logs.RefusalFilter())
    handler.setFormatter(logs.JsonFormatter())
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield stream
    root.removeHandler(handler)
    root.setLevel(before)


def read(lines: io.StringIO, logger_name: str) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in lines.getvalue().splitlines()]
    return [one for one in records if one["logger"] == logger_name]


async def test_a_record_of_any_logger_names_its_connection(lines: io.StringIO) -> None:
    node = make_node()
    first, second = connect_to(Talkative, node), connect_to(Talkative, node, "bob")
    for communicator in (first, second):
        await communicator.connect()
    ids = {one.client_id: one.connection_id for one in node.hub}
    await second.send_to(text_data="hello")
    await first.send_to(text_data="hi")
    for communicator in (first, second):
        await communicator.disconnect()
    found = read(lines, "project.chat")
    assert {one["client_id"]: one["connection_id"] for one in found} == ids
    assert {one["message"] for one in found} == {
        "a message of 5 characters",
        "a message of 2 characters",
    }


def test_a_record_outside_of_a_connection_names_none(lines: io.StringIO) -> None:
    logger.info("at the start")
    (found,) = read(lines, "project.chat")
    assert (found["connection_id"], found["client_id"]) == ("-", "-")
    assert found["level"] == "INFO"
    assert "node_id" in found


def test_an_exception_is_in_its_record(lines: io.StringIO) -> None:
    try:
        raise ArithmeticError("planted")
    except ArithmeticError:
        logger.exception("failed")
    (found,) = read(lines, "project.chat")
    assert "ArithmeticError: planted" in found["exc_info"]


async def test_an_end_is_one_line(lines: io.StringIO) -> None:
    node = make_node()
    communicator = connect_to(Talkative, node)
    await communicator.connect()
    (connection,) = node.hub
    await communicator.send_to(text_data="hello")
    await communicator.disconnect()
    (found,) = read(lines, "connections.ends")
    assert found["event"] == "connection_ended"
    assert found["connection_id"] == connection.connection_id
    assert (found["reason"], found["messages_in"], found["errors"]) == ("closed", 1, 0)
    assert found["duration_seconds"] == 0


HOSTILE = "a\n2026-01-01 00:00:00,000 INFO forged\r\x1b[2J\u2028b\u202ec"


def write_text(**options: Any) -> list[str]:
    """Return the lines of a record with hostile text."""
    record = logging.LogRecord("x", logging.INFO, "", 0, "%s", (HOSTILE,), **options)
    return logs.TextFormatter("%(levelname)s: %(message)s").format(record).splitlines()


def test_a_record_with_line_breaks_is_one_line() -> None:
    (line,) = write_text(exc_info=None)
    assert line == f"INFO: {repr(HOSTILE)[1:-1]}"


def test_a_moment_is_in_utc_and_names_the_zone() -> None:
    record = logging.makeLogRecord({"msg": "x", "created": 0.25, "msecs": 250.0})
    line = logs.TextFormatter("%(asctime)s %(message)s").format(record)
    assert line == "1970-01-01 00:00:00.250 UTC x"


def test_a_traceback_is_indented() -> None:
    """An exception in it may contain text of a client."""
    try:
        raise ValueError(HOSTILE)
    except ValueError as exc:
        first, *rest = write_text(exc_info=(type(exc), exc, exc.__traceback__))
    assert first.startswith("INFO: a")
    assert len(rest) > 3
    assert all(line.startswith("    ") for line in rest)
    assert all(line.isprintable() for line in rest)


def write_context(message: str, **context: str) -> str:
    record = logging.LogRecord("x", logging.INFO, "", 0, message, (), None)
    record.__dict__.update(context)
    return logs.TextFormatter("[%(context)s]: %(message)s").format(record)


def test_a_line_does_not_repeat_what_its_message_names() -> None:
    context = {"node_id": "n" * 32, "connection_id": "c1", "client_id": "alice"}
    assert write_context("Hello", **context) == (
        "[node nnnnnnnn, connection c1, client alice]: Hello"
    )
    line = write_context("Connection c1 of alice ended", **context)
    assert line == "[node nnnnnnnn]: Connection c1 of alice ended"
    nothing = {"node_id": "n" * 32, "connection_id": "-", "client_id": "-"}
    assert write_context("Started", **nothing) == "[node nnnnnnnn]: Started"


@pytest.mark.django_db
def test_a_request_with_a_foreign_host_is_one_line(
    client: Client, lines: io.StringIO
) -> None:
    client.raise_request_exception = False
    assert client.get("/", SERVER_NAME="evil.example").status_code == 400
    found = [json.loads(line) for line in lines.getvalue().splitlines()]
    (refusal,) = [one for one in found if one["logger"].startswith("django")]
    assert refusal["logger"] == "django.security.DisallowedHost"
    assert "evil.example" in refusal["message"]
    assert "exc_info" not in refusal
