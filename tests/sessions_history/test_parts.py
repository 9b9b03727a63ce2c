"""Answers in parts: as they grow, at rest, resumed, and as a text alone for v1."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connection

from connections.client.transcript import Transcript
from connections.exceptions import InvalidMessage
from connections.node.node import Node
from connections.testing import wait_until
from sessions_history import chunks, work
from sessions_history.commits import commit
from sessions_history.entries import Entry, Growth, Rewrite
from sessions_history.exceptions import StreamEnded
from sessions_history.fan_out import FanOut
from sessions_history.hints import pack, unpack
from sessions_history.limits import LogLimits
from sessions_history.log import get_log
from sessions_history.models import EntryChunk, HistoryEntry
from sessions_history.parts import Part, PartsLog, erase_decisions, fold, read_parts
from sessions_history.reads import read_entries_at, read_usage
from tests.pages import DOCS, read_blocks
from tests.sessions_history.appends import LIMITS, make_append, make_session
from tests.sessions_history.conftest import MakeNode, SwitchableDatabase
from tests.sessions_history.responding import Scripted
from tests.sessions_history.talks import Talk, talk

pytestmark = pytest.mark.django_db(transaction=True)

V2 = ("orchestra.v2", "orchestra.v1")

THINKING = Part("reasoning", id="r", author="planner", text="I look ")
THOUGHT = Part("reasoning", id="r", text="it up 👩‍👧")
CALL = Part("tool_call", id="c", name="search", arguments='{"q":')
ARGUMENTS = Part("tool_call", id="c", arguments='"café"}', state="running")
RESULT = Part("tool_call", id="c", state="done", result=[1, {"a": None}])
SOURCE = Part("source", id="s", url="https://example.org/", title="a\u2028b\nc")
USAGE = Part("usage", id="u", input_tokens=3, output_tokens=5)

WHOLE: list[str | Part] = [
    THINKING,
    THOUGHT,
    "Wait. ",
    CALL,
    ARGUMENTS,
    RESULT,
    "It is",
    " so.",
    SOURCE,
    USAGE,
]
PARTS: list[dict[str, Any]] = [
    {
        "id": "r",
        "type": "reasoning",
        "author": "planner",
        "text": "I look it up 👩‍👧",
    },
    {"id": "text-2", "type": "text", "text": "Wait. "},
    {
        "id": "c",
        "type": "tool_call",
        "state": "done",
        "name": "search",
        "arguments": '{"q":"café"}',
        "result": [1, {"a": None}],
    },
    {"id": "text-4", "type": "text", "text": "It is so."},
    {
        "id": "s",
        "type": "source",
        "url": "https://example.org/",
        "title": "a\u2028b\nc",
    },
    {"id": "u", "type": "usage", "input_tokens": 3, "output_tokens": 5},
]


class Screen:
    """What a client of orchestra.v2 holds; a message that does not fit fails."""

    def __init__(self, hello: dict[str, Any]) -> None:
        self.transcript = Transcript(1000)
        self.transcript.begin(hello)
        self.deltas: list[dict[str, Any]] = []

    def take(self, message: dict[str, Any]) -> None:
        if message["type"] == "entry":
            assert self.transcript.put(message)
        elif message["type"] == "delta":
            self.deltas.append(message)
            assert self.transcript.extend(message)
        elif message["type"] == "state":
            self.transcript.settle(message)

    def parts(self, offset: int) -> list[dict[str, Any]]:
        found = [one for one in self.transcript.entries if one.offset == offset]
        return found[0].parts if found else []

    def state(self, offset: int) -> str:
        found = [one for one in self.transcript.entries if one.offset == offset]
        return found[0].state if found else ""

    async def follow(self, client: Talk, until: Callable[["Screen"], bool]) -> None:
        while not until(self):
            self.take(await client.receive())


def has_ended(screen: Screen) -> bool:
    return screen.state(2) not in ("", "streaming")


def shows(parts: list[dict[str, Any]]) -> Callable[[Screen], bool]:
    return lambda screen: screen.parts(2) == parts


@pytest.fixture
def responder() -> Scripted:
    return Scripted()


@pytest.fixture
async def node(make_node: MakeNode, responder: Scripted) -> Node:
    made = make_node()
    get_log(made).responder = responder
    return made


# The log of changes


@pytest.mark.parametrize(
    ("arguments", "fields", "error", "message"),
    [
        (("thought",), {}, ValueError, "a part is one of text, reasoning, tool_call"),
        (("source",), {"uri": "x"}, ValueError, "no field 'uri'; it has url, title"),
        (("reasoning",), {"text": 5}, TypeError, "text of reasoning is str, not int"),
        (("usage",), {"input_tokens": True}, TypeError, "is int, not bool"),
        (
            ("tool_call",),
            {"state": "odd"},
            ValueError,
            "waiting, awaiting_approval, running",
        ),
        (("error",), {"id": "a\nb"}, ValueError, "at most 100 printable"),
        (("error",), {"author": "a" * 101}, ValueError, "at most 100 printable"),
        (("custom",), {"data": float("nan")}, InvalidMessage, "custom holds NaN"),
    ],
)
def test_a_wrong_part_is_named(
    arguments: tuple[str], fields: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Part(*arguments, **fields)


def write(*pieces: str | Part) -> tuple[PartsLog, str]:
    log, text = PartsLog(), ""
    for piece in pieces:
        if isinstance(piece, Part) and piece.type != "text":
            log.add(piece)
            continue
        part = piece if isinstance(piece, Part) else None
        if part is not None or log.changes:
            log.add_text(part, len(text))
        text += part.fields["text"] if part is not None else str(piece)
    return log, text


def test_changes_of_parts_become_parts() -> None:
    log, text = write(*WHOLE)
    assert read_parts(log.changes, text) == PARTS
    folded = fold(log.changes)
    assert folded.count("\n") == len(PARTS) < log.changes.count("\n")
    assert fold(folded) == folded
    assert read_parts(folded, text) == PARTS


def test_a_text_alone_costs_no_part() -> None:
    log, text = write("one ", "two")
    assert log.changes == ""
    assert read_parts("", text) == [{"id": "text", "type": "text", "text": "one two"}]
    assert read_parts("", "") == []


def test_text_goes_on_until_another_part_begins() -> None:
    pieces: list[str | Part]
    pieces = ["a", Part("reasoning", text="x"), Part("reasoning", text="y"), "b", "c"]
    log, text = write(*pieces, Part("text", author="writer", text="d"))
    assert [
        (one["id"], one.get("text"), one.get("author"))
        for one in read_parts(log.changes, text)
    ] == [
        ("text", "a", None),
        ("reasoning-1", "xy", None),
        ("text-2", "bc", None),
        ("text-3", "d", "writer"),
    ]


def test_a_text_with_an_id_goes_on_behind_another_part() -> None:
    one = Part("text", id="t", text="a")
    log, text = write(one, CALL, Part("text", id="t", text="b"))
    assert [part.get("text") for part in read_parts(log.changes, text)] == ["ab", None]


def test_an_id_is_of_one_part() -> None:
    log, _ = write(CALL, Part("text", id="t", text="a"), Part("text", id="v", text="b"))
    with pytest.raises(ValueError, match="'c' is tool_call, not source"):
        log.add(Part("source", id="c"))
    with pytest.raises(ValueError, match="'t' has ended"):
        log.add_text(Part("text", id="t", text="c"), 2)
    with pytest.raises(ValueError, match="'text' is text, not custom"):
        log.add(Part("custom", id="text"))


def test_a_log_goes_on_where_it_was() -> None:
    log, text = write(THINKING, "a", CALL)
    again = PartsLog(fold(log.changes))
    assert 0 < again.size <= log.size + len(log.changes)
    again.add(ARGUMENTS)
    again.add_text(None, len(text))
    parts = read_parts(again.changes, text + "b")
    assert [one["id"] for one in parts] == ["r", "text-2", "c", "text-4"]
    assert parts[2]["arguments"] == '{"q":"café"}'


# What is stored


def begin(text: str = "", parts: str = "") -> str:
    """Return a session whose first entry streams, and has chunks."""
    session_id = make_session()
    commit([make_append(session_id, data='{"text":""}', state="streaming")], LIMITS)
    if text or parts:
        commit([grow(session_id, 1, text, parts)], LIMITS)
    return session_id


def grow(session_id: str, sequence: int, text: str, parts: str) -> Growth:
    return Growth(
        session_id=session_id, offset=1, sequence=sequence, text=text, parts=parts
    )


def test_parts_are_read_with_their_chunks_and_folded_at_the_end() -> None:
    log, _ = write(THINKING, THOUGHT)
    half = log.changes.index("\n") + 1
    session_id = begin("a", log.changes[:half])
    commit([grow(session_id, 3, "", log.changes[half:])], LIMITS)
    (entry,) = read_entries_at(session_id, [1])
    assert (entry.text, entry.parts) == ("a", log.changes)
    assert read_usage("alice")[1] >= len(log.changes.encode())
    rewrite = Rewrite(session_id=session_id, offset=1, state="interrupted")
    commit([rewrite], LIMITS)
    row = HistoryEntry.objects.get()
    assert (row.data, row.parts) == ('{"text":"a"}', fold(log.changes))
    assert not EntryChunk.objects.exists()


def test_a_growth_that_is_sent_again_counts_once() -> None:
    """Also if a text has come before the changes of the first time."""
    log, _ = write(THINKING)
    session_id = begin("", log.changes)
    commit([grow(session_id, 1, "a", log.changes)], LIMITS)
    (entry,) = read_entries_at(session_id, [1])
    assert (entry.text, entry.parts) == ("a", log.changes)


def test_the_previous_release_reads_the_text_and_leaves_the_parts() -> None:
    """It adds, reads and folds the chunks of kind text alone."""
    log, _ = write(THINKING)
    session_id = begin("a", log.changes)
    texts = EntryChunk.objects.filter(part="", kind="text").order_by("sequence")
    assert "".join(texts.values_list("text", flat=True)) == "a"
    with connection.cursor() as cursor:
        cursor.execute("UPDATE sessions_history_historyentry SET state = 'interrupted'")
    (entry,) = read_entries_at(session_id, [1])
    assert entry.parts == log.changes
    assert chunks.fold_left(10) == 1
    assert HistoryEntry.objects.get().parts == fold(log.changes)


def test_an_answer_with_parts_alone_is_not_begun_anew() -> None:
    session_id = make_session()
    stream = make_append(session_id, data='{"text":""}', state="streaming")
    commit([make_append(session_id), stream], LIMITS)
    log, _ = write(CALL)
    commit(
        [
            Growth(
                session_id=session_id,
                offset=2,
                sequence=1,
                text="",
                parts=log.changes,
            )
        ],
        LIMITS,
    )
    due = work.DueWork(
        session_id=session_id,
        offset=2,
        message_offset=1,
        key="",
        attempts=1,
        is_late=False,
    )
    assert work.read_answer(due) is None


def test_a_hint_carries_parts_only_where_there_are_some() -> None:
    session_id = begin("a", write(CALL)[0].changes)
    (entry,) = read_entries_at(session_id, [1])
    assert unpack(json.loads(json.dumps(pack([entry])))) == [entry]
    plain = begin("a")
    (entry,) = read_entries_at(plain, [1])
    assert "parts" not in pack([entry])


def test_trimming_takes_the_parts_along() -> None:
    session_id = begin("a", write(CALL)[0].changes)
    commit([Rewrite(session_id=session_id, offset=1, state="done")], LIMITS)
    limits = LogLimits(node_id="n" * 32, history_limit=1, max_open_streams=2)
    commit([make_append(session_id)], limits)
    assert [row.offset for row in HistoryEntry.objects.all()] == [2]
    assert not EntryChunk.objects.exists()


# What is sent


async def test_both_versions_see_one_answer(node: Node, responder: Scripted) -> None:
    async with (
        talk(node, subprotocols=V2) as second,
        talk(node, second.session_id) as first,
    ):
        await second.say({"text": "?"})
        screen = Screen(second.hello)
        for count, piece in enumerate(WHOLE, 1):
            responder.play(piece)
            await screen.follow(second, shows(read_parts(*_log(WHOLE[:count]))))
        responder.play(None)
        await screen.follow(second, has_ended)
        assert (screen.parts(2), screen.state(2)) == (PARTS, "done")
        # A change that is lost or comes twice does not fit, which take() tells.
        assert any("parts" in one for one in screen.deltas)
        text, messages = "", list[dict[str, Any]]()
        while not messages or messages[-1]["type"] != "state":
            messages.append(await first.receive())
            if messages[-1]["type"] == "delta":
                text += messages[-1]["text"]
        assert text == "Wait. It is so."
        assert "parts" not in json.dumps(messages)
    for subprotocols, has_parts in ((V2, True), (("orchestra.v1",), False)):
        async with talk(node, second.session_id, subprotocols=subprotocols) as late:
            assert (await late.receive_type("entry"))["offset"] == 1
            entry = await late.receive_type("entry")
            assert entry["data"] == {"text": "Wait. It is so."}
            assert ("parts" in entry) == has_parts
            screen = Screen(late.hello)
            screen.transcript.last = 1
            screen.take(entry)
            assert (screen.parts(2) == PARTS) == has_parts


async def test_parts_that_arrive_at_once_come_in_their_order(
    make_node: MakeNode, node: Node, responder: Scripted
) -> None:
    """No part overtakes the text before it, nor does a text what is before it."""
    other = make_node(sessions={"position_seconds": 0.05})
    async with talk(node, subprotocols=V2) as page:
        await page.say({"text": "?"})
        await page.receive_type("entry")
        async with talk(other, page.session_id, subprotocols=V2) as late:
            screen = Screen(late.hello)
            await screen.follow(late, lambda one: one.state(2) == "streaming")
            shown: list[str] = []
            responder.play(*WHOLE)
            while screen.parts(2) != PARTS:
                screen.take(await late.receive())
                begun = [one["id"] for one in screen.parts(2) if one.get("text") != ""]
                shown += [one for one in begun if one not in shown]
            assert shown == [one["id"] for one in PARTS]


async def test_a_page_that_attaches_before_a_commit_gets_no_text_without_its_part(
    node: Node, responder: Scripted
) -> None:
    """The tail of the session is gone in between, with what is not committed."""
    pieces: list[str | Part] = [THINKING, "Wait. ", CALL, "It is so."]
    async with talk(node, subprotocols=V2) as first:
        await first.say({"text": "?"})
        screen = Screen(first.hello)
        responder.play(pieces[0])
        await screen.follow(first, lambda one: bool(one.parts(2)))
    responder.play(*pieces[1:])
    await wait_until(responder.script.empty)
    async with talk(node, first.session_id, subprotocols=V2) as late:
        screen = Screen(late.hello)
        while screen.parts(2) != read_parts(*_log(pieces)):
            screen.take(await late.receive())
            assert "text" not in [one["id"] for one in screen.parts(2)]


def _log(pieces: list[str | Part]) -> tuple[str, str]:
    log, text = write(*pieces)
    return log.changes, text


async def test_a_page_returns_amid_the_arguments_of_a_call(
    make_node: MakeNode, node: Node, responder: Scripted
) -> None:
    """On another node, which knows the log alone."""
    other = make_node(sessions={"position_seconds": 0.05})
    async with talk(node, subprotocols=V2) as page:
        await page.say({"text": "?"})
        screen = Screen(page.hello)
        responder.play(*WHOLE[:4])
        await screen.follow(page, lambda one: len(one.parts(2)) == 3)
    await wait_until(EntryChunk.objects.filter(kind="parts").aexists)
    position = {
        "epoch": page.hello["epoch"],
        "offset": screen.transcript.last,
        "open": "2",
    }
    for where in (node, other):
        async with talk(
            where, page.session_id, subprotocols=V2, **position
        ) as returned:
            held = Screen(returned.hello)
            held.transcript.last = 2
            await held.follow(returned, lambda one: len(one.parts(2)) == 3)
            assert held.parts(2)[2]["arguments"] == '{"q":'
            if where is other:
                responder.play(*WHOLE[4:], None)
                await held.follow(returned, has_ended)
                assert (held.parts(2), held.state(2)) == (PARTS, "done")


async def test_a_slow_page_gets_what_it_lacks_at_the_end(
    node: Node, responder: Scripted
) -> None:
    async with talk(node, subprotocols=V2) as page:
        await page.say({"text": "?"})
        responder.play(*WHOLE, None)
        screen = Screen(page.hello)
        await screen.follow(page, has_ended)
        assert screen.parts(2) == PARTS
    row = await HistoryEntry.objects.aget(offset=2)
    assert (row.state, row.data) == ("done", '{"text":"Wait. It is so."}')
    assert read_parts(row.parts, "Wait. It is so.") == PARTS


@pytest.mark.parametrize("ending", ["failed", "cancelled"])
async def test_an_answer_that_ends_early_keeps_its_parts(
    node: Node, responder: Scripted, ending: str
) -> None:
    async with talk(node, subprotocols=V2) as page:
        await page.say({"text": "?"})
        screen = Screen(page.hello)
        responder.play(*WHOLE[:4])
        await screen.follow(page, lambda one: len(one.parts(2)) == 3)
        if ending == "failed":
            responder.play(RuntimeError("x"))
        else:
            await page.send(type="cancel", offset=2)
        await screen.follow(page, has_ended)
        assert screen.state(2) == {"failed": "error"}.get(ending, ending)
        assert screen.parts(2)[2]["arguments"] == '{"q":'


async def test_the_next_message_has_the_parts_in_its_history(
    node: Node, responder: Scripted
) -> None:
    async with talk(node) as alice:
        responder.play(*WHOLE, None, None)
        await alice.say({"text": "?"})
        await alice.receive_type("state")
        await alice.say({"text": "and"})
        await wait_until(lambda: len(responder.asked) == 2)
        question, answer = responder.asked[1][1]
        assert (list(question.parts), list(answer.parts)) == ([], PARTS)


async def test_parts_that_are_too_long_end_the_answer(make_node: MakeNode) -> None:
    log = get_log(make_node(max_message_size=200))
    session_id = await sync_to_async(make_session)()
    with pytest.raises(StreamEnded, match="longer than max_message_size"):
        async with log.stream(session_id) as stream:
            for _ in range(9):
                await stream.write(Part("reasoning", text="x" * 30))
    row = await HistoryEntry.objects.aget()
    assert row.state == "interrupted"
    assert len(row.parts) > 150


@pytest.mark.parametrize(
    "piece",
    [
        Part("reasoning", text="x" * 100_000),
        Part("tool_call", id="c", result=["x" * 100_000]),
        Part("tool_call", id="c", arguments="x" * 100_000),
    ],
)
async def test_a_part_that_does_not_fit_is_not_written(
    make_node: MakeNode, piece: Part
) -> None:
    log = get_log(make_node(max_message_size=200))
    session_id = await sync_to_async(make_session)()
    with pytest.raises(StreamEnded, match="longer than max_message_size"):
        async with log.stream(session_id) as stream:
            await stream.write(Part("tool_call", id="c", name="search"))
            await stream.write(piece)
    row = await HistoryEntry.objects.aget()
    assert row.state == "interrupted"
    assert "search" in row.parts
    assert len(row.parts) < 200


async def test_texts_without_a_text_have_a_limit_too(make_node: MakeNode) -> None:
    log = get_log(make_node(max_message_size=1000))
    session_id = await sync_to_async(make_session)()
    with pytest.raises(StreamEnded, match="longer than max_message_size"):
        async with log.stream(session_id) as stream:
            for number in range(1000):
                await stream.write(Part("text", id=f"text-{number}", text=""))
    row = await HistoryEntry.objects.aget()
    assert (row.state, len(row.parts) <= 1000) == ("interrupted", True)


async def test_a_producer_goes_on_with_its_parts(make_node: MakeNode) -> None:
    log = get_log(make_node())
    session_id = await sync_to_async(make_session)()
    with pytest.raises(RuntimeError):
        async with log.stream(session_id, key="task") as stream:
            for piece in WHOLE[:4]:
                await stream.write(piece)
            raise RuntimeError
    async with log.stream(session_id, key="task") as stream:
        assert [one["id"] for one in stream.parts] == ["r", "text-2", "c"]
        rows = [
            (row.sequence, row.kind)
            async for row in EntryChunk.objects.order_by("sequence")
        ]
        assert rows == [(1, "text"), (2, "parts")]
        for piece in WHOLE[4:]:
            await stream.write(piece)
        assert stream.parts == PARTS
    row = await HistoryEntry.objects.aget()
    assert (row.state, read_parts(row.parts, "Wait. It is so.")) == ("done", PARTS)


async def test_a_lost_reply_doubles_no_change(make_node: MakeNode) -> None:
    database = SwitchableDatabase()
    node = make_node(database)
    session_id = await sync_to_async(make_session)()
    async with get_log(node).stream(session_id) as stream:
        database.loses_reply = True
        await stream.write(THINKING)
        await wait_until(lambda: not database.loses_reply)
        await stream.write("a")
        await stream.write(THOUGHT)
        held = stream.parts

        async def is_written() -> bool:
            (entry,) = await sync_to_async(read_entries_at)(session_id, [1])
            return read_parts(entry.parts, entry.text) == held

        await wait_until(is_written)
    assert held[0]["text"] == "I look it up 👩‍👧"


async def test_a_hint_with_a_hole_makes_a_node_read(make_node: MakeNode) -> None:
    """It takes no change of parts that does not join on, and finds it in the log."""
    log, _ = write(*WHOLE[:2])
    session_id = await sync_to_async(begin)("", log.changes)
    (entry,) = await sync_to_async(read_entries_at)(session_id, [1])
    node = make_node()
    assert node.database is not None
    fan_out = FanOut(node.database, node_id="n", redis_url=None, passes=node.hub.passes)
    tail = fan_out.find_or_make(session_id)
    first = log.changes.index("\n") + 1
    tail.take(_with_parts(entry, log.changes[:first]))
    assert not tail.extend_parts(1, first + 5, "late")
    assert tail.growing[1].parts == log.changes[:first]
    assert tail.extend_parts(1, first, log.changes[first:])
    assert tail.extend_parts(1, 0, log.changes[:first])
    assert tail.growing[1].parts == log.changes
    await fan_out.close()


def _with_parts(entry: Entry, parts: str) -> Entry:
    return Entry(
        offset=entry.offset,
        kind=entry.kind,
        sender=entry.sender,
        at=entry.at,
        data=entry.data,
        state=entry.state,
        parts=parts,
    )


@pytest.mark.parametrize(
    ("offered", "selected"),
    [(V2, "orchestra.v2"), (V2[::-1], "orchestra.v2"), (V2[1:], "orchestra.v1")],
)
async def test_the_newest_known_subprotocol_is_selected(
    node: Node, offered: tuple[str, ...], selected: str
) -> None:
    async with talk(node, subprotocols=offered) as alice:
        assert max(offered) == selected
        assert alice.hello["outcome"] == "new"


def find_example() -> str:
    (block,) = read_blocks((DOCS / "topics" / "protocol.md").read_text(), "python")
    return block


async def test_the_responder_of_the_page_answers_in_parts(make_node: MakeNode) -> None:
    names: dict[str, Any] = {}
    exec(find_example(), names)
    node = make_node()
    get_log(node).responder = names["Researcher"]()
    async with talk(node, subprotocols=V2) as page:
        await page.say({"text": "?"})
        screen = Screen(page.hello)
        await screen.follow(page, has_ended)
    types = [one["type"] for one in screen.parts(2)]
    assert types == ["reasoning", "tool_call", "text", "source"]
    assert screen.parts(2)[1]["arguments"] == '{"q":"tides"}'


def test_a_decision_without_a_state_is_erased_too() -> None:
    """A responder may write an approval of its own into a part."""
    changes = '{"id":"c1","type":"tool_call","approval":{"note":"by alice"}}\n'
    erased = erase_decisions(changes, calls={"c1"})
    assert json.loads(erased)["approval"] == {}
