"""Answers that stream: seen as they grow, kept whatever happens to their audience."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from connections.models import ErrorEvent
from connections.node.node import Node
from connections.testing import wait_until
from sessions_history.entries import Rewrite
from sessions_history.exceptions import StreamEnded, TooManyStreams
from sessions_history.log import get_log
from sessions_history.models import HistoryEntry
from sessions_history.responders import ResponderFailed
from tests.logged import find_records
from tests.sessions_history.conftest import MakeNode, SwitchableDatabase
from tests.sessions_history.responding import Scripted
from tests.sessions_history.talks import Talk, talk

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def responder() -> Scripted:
    return Scripted()


@pytest.fixture
async def node(make_node: MakeNode, responder: Scripted) -> Node:
    made = make_node()
    get_log(made).responder = responder
    return made


class Screen:
    """The transcript of a client that follows the protocol."""

    def __init__(self) -> None:
        self.entries: dict[int, dict[str, Any]] = {}

    def take(self, message: dict[str, Any]) -> None:
        if message["type"] == "entry":
            self.entries[message["offset"]] = message
        elif message["type"] == "delta":
            shown = self.entries[message["offset"]]["data"]
            assert message["at_char"] == len(shown["text"])
            shown["text"] += message["text"]
        elif message["type"] == "state":
            self.entries[message["offset"]]["state"] = message["state"]

    def text(self, offset: int) -> str:
        text: str = self.entries[offset]["data"]["text"]
        return text

    async def follow(self, client: Talk, until: Callable[["Screen"], bool]) -> None:
        while not until(self):
            self.take(await client.receive())


def has_ended(offset: int) -> Callable[[Screen], bool]:
    return lambda screen: (
        offset in screen.entries and screen.entries[offset]["state"] != "streaming"
    )


def shows(offset: int, text: str) -> Callable[[Screen], bool]:
    return lambda screen: offset in screen.entries and screen.text(offset) == text


async def read_entry(session_id: str, offset: int) -> tuple[str, Any]:
    row = await HistoryEntry.objects.aget(session_id=session_id, offset=offset)
    return row.state, json.loads(row.data)


async def test_an_answer_streams_and_is_kept(node: Node, responder: Scripted) -> None:
    pieces = ["Hé", "llo ", "👩‍", "👩‍👧", " e", "\u0301"]
    responder.play(*pieces, None)
    screen = Screen()
    async with talk(node) as alice:
        await alice.say({"text": "hi"})
        await screen.follow(alice, has_ended(2))
        assert screen.text(2) == "".join(pieces)
        assert screen.entries[2]["state"] == "done"
        assert await read_entry(alice.session_id, 2) == (
            "done",
            {"text": "".join(pieces)},
        )
        assert responder.asked == [({"text": "hi"}, [])]


async def test_the_history_is_what_came_before(node: Node, responder: Scripted) -> None:
    responder.play("first", None, "second", None)
    screen = Screen()
    async with talk(node) as alice:
        await alice.say({"text": "1"})
        await screen.follow(alice, has_ended(2))
        await alice.say({"text": "2"})
        await screen.follow(alice, has_ended(4))
    _, history = responder.asked[1]
    entries = [(one.sender, one.data["text"], one.state) for one in history]
    assert entries == [("client", "1", "done"), ("server", "first", "done")]


async def test_a_reload_in_the_middle_misses_nothing(
    node: Node, responder: Scripted
) -> None:
    screen = Screen()
    async with talk(node) as alice:
        await alice.say({"text": "hi"})
        responder.play("one ")
        await screen.follow(alice, shows(2, "one "))
    responder.play("two ")
    claim = {"epoch": alice.hello["epoch"], "offset": 2, "open": "2"}
    async with talk(node, alice.session_id, **claim) as again:
        assert again.hello["outcome"] == "resumed"
        await screen.follow(again, shows(2, "one two "))
        responder.play("three", None)
        await screen.follow(again, has_ended(2))
        assert screen.text(2) == "one two three"
    async with talk(node, alice.session_id, **claim) as late:
        entry = await late.receive()
        assert (entry["offset"], entry["state"]) == (2, "done")
        assert entry["data"] == {"text": "one two three"}


async def test_a_stream_goes_on_without_listeners(
    node: Node, responder: Scripted
) -> None:
    async with talk(node) as alice:
        await alice.say_and_wait({"text": "hi"})
    responder.play("nobody ", "listens", None)
    await get_log(node).drain()
    expected = ("done", {"text": "nobody listens"})
    assert await read_entry(alice.session_id, 2) == expected


async def test_a_client_cancels(node: Node, responder: Scripted) -> None:
    screen = Screen()
    async with talk(node) as alice:
        await alice.say({"text": "hi"})
        responder.play("enough")
        await screen.follow(alice, shows(2, "enough"))
        await alice.send(type="cancel", offset=2)
        await screen.follow(alice, has_ended(2))
        assert screen.entries[2]["state"] == "cancelled"
        assert await read_entry(alice.session_id, 2) == (
            "cancelled",
            {"text": "enough"},
        )
        assert responder.closed == 1
        await alice.send(type="cancel", offset=2)
        assert (await alice.receive_type("error"))["code"] == "not_found"


async def test_another_node_cancels(
    node: Node, make_node: MakeNode, responder: Scripted
) -> None:
    """The database alone carries it: there is no Redis here."""
    screen = Screen()
    async with talk(node) as alice:
        await alice.say({"text": "hi"})
        responder.play("enough")
        await screen.follow(alice, shows(2, "enough"))
        await get_log(make_node()).cancel(alice.session_id, 2)
        responder.play(" and more")
        await get_log(node).drain()
        assert responder.closed == 1
        assert (await read_entry(alice.session_id, 2))[0] == "cancelled"


async def test_a_responder_that_fails_is_an_error_state(
    node: Node, responder: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    """One that says why is a line of the log; any other is logged in full."""
    screen = Screen()
    async with talk(node) as alice:
        await alice.say({"text": "hi"})
        responder.play("half", ResponderFailed("the model is away"))
        await screen.follow(alice, has_ended(2))
        assert screen.entries[2]["state"] == "error"
        error = {"text": "half", "error": "the model is away"}
        assert screen.entries[2]["data"] == error
        responder.play(KeyError("a secret"))
        await alice.say({"text": "again"})
        await screen.follow(alice, has_ended(4))
        assert screen.entries[4]["data"] == {"text": "", "error": "internal error"}
        said = find_records(caplog, "sessions_history.producers")
        failed = [one for one in said if "responder" in one.getMessage()]
        assert [one.exc_info is None for one in failed] == [True, False]
        assert "the model is away" in failed[0].getMessage()
        responder.play("well", None)
        await alice.say({"text": "again"})
        await screen.follow(alice, has_ended(6))
        assert screen.text(6) == "well"


class OutOfQuota(ResponderFailed):
    """A note for those who read the code."""


@pytest.mark.parametrize("kind", [ResponderFailed, OutOfQuota])
async def test_a_failure_without_a_text_tells_no_docstring(
    node: Node, responder: Scripted, kind: type[ResponderFailed]
) -> None:
    screen = Screen()
    async with talk(node) as alice:
        await alice.say({"text": "hi"})
        responder.play(kind())
        await screen.follow(alice, has_ended(2))
        assert screen.entries[2]["data"]["error"] == "no answer"


async def test_the_client_gets_the_beginning_of_a_long_reason(
    node: Node, responder: Scripted
) -> None:
    screen = Screen()
    async with talk(node) as alice:
        await alice.say({"text": "hi"})
        responder.play(ResponderFailed("away! " * 100_000))
        await screen.follow(alice, has_ended(2))
        error = screen.entries[2]["data"]["error"]
        assert (error[:12], len(error)) == ("away! away! ", 1000)


async def test_staff_see_the_errors_of_a_responder(
    node: Node, responder: Scripted
) -> None:
    """What only tells the client why there is no answer is no error."""
    caused = ResponderFailed("the model cannot be reached")
    caused.__cause__ = OSError("no route to host")
    endings = [
        ResponderFailed("a message has a text"),
        ResponderFailed("the model answered HTTP 429", reason="no quota until May"),
        caused,
        KeyError("a tool"),
    ]
    screen = Screen()
    async with talk(node) as alice:
        for number, ending in enumerate(endings, 1):
            responder.play(ending)
            await alice.say({"text": "hi"})
            await screen.follow(alice, has_ended(2 * number))
    await get_log(node).drain()
    assert node.recorder is not None
    await node.recorder.flush()
    errors = [one async for one in ErrorEvent.objects.order_by("at")]
    ends = [one.traceback.strip().splitlines()[-1] for one in errors]
    assert ends[0] == "no quota until May"
    assert ends[1].endswith("ResponderFailed: the model cannot be reached")
    assert "no route to host" in errors[1].traceback
    assert ends[2] == "KeyError: 'a tool'"
    assert {one.route for one in errors} == {"responder Scripted"}
    assert {one.node_id for one in errors} == {node.node_id}
    assert errors[2].where.startswith("sessions_history/responding.py/respond:")


@pytest.mark.parametrize("kind", [asyncio.CancelledError, SystemExit])
async def test_no_end_of_what_a_responder_awaits_is_more_than_its_failure(
    node: Node,
    responder: Scripted,
    caplog: pytest.LogCaptureFixture,
    kind: type[BaseException],
) -> None:
    screen = Screen()
    async with talk(node) as alice:
        await alice.say({"text": "hi"})
        responder.play("half", kind())
        await screen.follow(alice, has_ended(2))
        assert screen.entries[2]["state"] == "error"
        await wait_until(lambda: "The responder failed" in caplog.text)


async def test_only_so_many_stream_at_once(node: Node, responder: Scripted) -> None:
    screen = Screen()
    async with talk(node) as alice:
        for _ in range(4):
            await alice.say_and_wait({"text": "hi"})
        refused = await alice.say({"text": "one too many"})
        error = await alice.receive_type("error")
        assert (error["id"], error["code"]) == (refused, "rate_limited")
        assert error["retry_after_seconds"] == 1
        with pytest.raises(TooManyStreams):
            async with get_log(node).stream(alice.session_id):
                pass
        responder.play(None)
        await screen.follow(alice, lambda screen: True)
        await alice.receive_type("state")
        await alice.say({"text": "one too many"}, refused)
        assert (await alice.receive_type("ack"))["offset"] == 9


async def test_a_stream_that_takes_too_long_is_interrupted(
    make_node: MakeNode,
) -> None:
    node = make_node(sessions={"stream_timeout_seconds": 0.1})
    async with talk(node) as alice:
        with pytest.raises(StreamEnded):
            async with get_log(node).stream(alice.session_id) as stream:
                await stream.write("so far")
                await asyncio.Event().wait()
        expected = ("interrupted", {"text": "so far"})
        assert await read_entry(alice.session_id, 1) == expected


async def test_a_node_that_stops_keeps_the_text(
    node: Node, responder: Scripted
) -> None:
    screen = Screen()
    async with talk(node) as alice:
        await alice.say({"text": "hi"})
        responder.play("so far")
        await screen.follow(alice, shows(2, "so far"))
    # As stop() of the node does, which leaves a slow commit after two seconds.
    await node.extensions.stop()
    expected = ("interrupted", {"text": "so far"})
    assert await read_entry(alice.session_id, 2) == expected
    assert responder.closed == 1


async def test_pieces_of_characters_are_joined(make_node: MakeNode) -> None:
    """Surrogate pairs that came apart, as escapes in JSON may; others are replaced."""
    node = make_node()
    async with talk(node) as alice:
        async with get_log(node).stream(alice.session_id) as stream:
            for piece in ("a\ud83d", "\ude00b", "\x00", "\udc00", "\ud83d"):
                await stream.write(piece)
        _, content = await read_entry(alice.session_id, 1)
        assert content["text"] == "a😀b\ufffd\ufffd\ufffd"


async def test_a_stream_that_ended_and_was_trimmed_elsewhere_is_told_as_ended(
    make_node: MakeNode,
) -> None:
    """The connection may idle again: nothing streams to it any more."""
    config = {"max_session_history": 2, "sessions": {"position_seconds": 0.1}}
    writer, reader = get_log(make_node(**config)), make_node(**config)
    async with talk(reader) as alice:
        await alice.say_and_wait("x")
        async with writer.stream(alice.session_id):
            assert (await alice.receive_offsets(2))[-1] == 2
            await writer.append(alice.session_id, "a")
            assert await alice.receive_offsets(3) == [3]
        await writer.append(alice.session_id, "b")
        await writer.append(alice.session_id, "c")
        state = await alice.receive_type("state")
        assert (state["offset"], state["state"]) in ((2, "interrupted"), (2, "done"))
        (connection,) = reader.hub
        await wait_until(lambda: connection.busy_count == 0)


async def begin_answer(session: Talk, responder: Scripted) -> None:
    """Say something, and wait until the responder is asked."""
    count = len(responder.asked) + 1
    await session.say_and_wait({"text": "hi"})
    await wait_until(lambda: len(responder.asked) == count)


@pytest.mark.parametrize("limit", ["per_client", "per_node"])
async def test_only_so_many_answers_are_under_way_for_a_client_and_on_a_node(
    make_node: MakeNode, responder: Scripted, limit: str
) -> None:
    """However many sessions the client has."""
    node = make_node(sessions={f"max_open_streams_{limit}": 3})
    get_log(node).responder = responder
    async with talk(node) as one, talk(node) as two, talk(node) as three:
        for session in (one, two, three):
            await begin_answer(session, responder)
        refused = await three.say({"text": "one too many"})
        error = await three.receive_type("error")
        assert (error["id"], error["code"]) == (refused, "rate_limited")
        async with talk(node, client_id="bob") as bob:
            await bob.say({"text": "hi"})
            kind = (await bob.receive_type("ack", "error"))["type"]
            assert kind == ("ack" if limit == "per_client" else "error")
        responder.play(None, None, None)
        await one.receive_type("state")
        await three.say({"text": "one too many"}, refused)
        assert (await three.receive_type("ack"))["offset"] == 3


class LosingDatabase(SwitchableDatabase):
    """A database that loses the reply to the next commit of an end."""

    loses_end = True

    async def write_urgently(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        if self.loses_end and any(isinstance(one, Rewrite) for one in args[0]):
            self.loses_end, self.loses_reply = False, True
        return await super().write_urgently(work, *args, **kwargs)


LATE = {"sessions": {"position_seconds": 60}}
"""The checks of positions tell nothing within a test."""


async def test_the_end_is_told_at_once_after_a_lost_reply(
    make_node: MakeNode, responder: Scripted
) -> None:
    database = LosingDatabase()
    node = make_node(database, **LATE)
    get_log(node).responder = responder
    async with talk(node) as alice:
        offset = await alice.say_and_wait({"text": "hi"}) + 1
        responder.play(None)
        state = await alice.receive_type("state")
        assert (state["offset"], state["state"]) == (offset, "done")
        assert not database.loses_end


async def test_a_cancellation_is_told_at_once_after_a_lost_reply(
    make_node: MakeNode, responder: Scripted
) -> None:
    """The stream is on another node; the second request finds it ended."""
    owner, other = make_node(**LATE), make_node(LosingDatabase(), **LATE)
    get_log(owner).responder = responder
    async with talk(owner) as alice:
        offset = await alice.say_and_wait({"text": "hi"}) + 1
        async with talk(other, alice.session_id) as alice_again:
            await alice_again.receive_offsets(offset)
            await alice_again.send(type="cancel", offset=offset)
            assert (await alice_again.receive_type("error"))["code"] == "unavailable"
            await alice_again.send(type="cancel", offset=offset)
            assert (await alice_again.receive_type("error"))["code"] == "not_found"
            state = await alice_again.receive_type("state")
            assert (state["offset"], state["state"]) == (offset, "cancelled")
