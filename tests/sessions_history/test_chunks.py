"""The text of a streaming entry is written in chunks, and read as one text."""

import asyncio
import json
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from connections.close_codes import SLOW_CONSUMER
from connections.passes import Passes
from connections.storage.database import Database
from connections.testing import wait_until
from connections.testing.waiting import scale
from sessions_history import chunks, work
from sessions_history.approval_models import Approval
from sessions_history.commits import commit
from sessions_history.entries import Committed, Entry, Growth, Request, Rewrite
from sessions_history.exceptions import ChunksLost, StreamEnded
from sessions_history.limits import LogLimits
from sessions_history.log import get_log
from sessions_history.models import EntryChunk, HistoryEntry, Session, Work
from sessions_history.pruning import interrupt_abandoned
from sessions_history.reads import (
    read_entries_after,
    read_entries_at,
    read_latest_entries,
    read_positions,
    read_usage,
)
from sessions_history.subscribers import Subscriber
from sessions_history.tails import Tail
from tests.connections.live_connections import make_connection
from tests.sessions_history.appends import LIMITS, make_append, make_session
from tests.sessions_history.conftest import MakeNode, SwitchableDatabase
from tests.sessions_history.talks import talk

pytestmark = pytest.mark.django_db(transaction=True)

OTHER = LogLimits(node_id="o" * 32, history_limit=5, max_open_streams=2)


def begin(data: str = '{"text":""}') -> str:
    """Return a session whose first entry streams."""
    session_id = make_session()
    commit([make_append(session_id, data=data, state="streaming")], LIMITS)
    return session_id


def grow(session_id: str, sequence: int, text: str, data: str | None = None) -> Growth:
    return Growth(
        session_id=session_id, offset=1, sequence=sequence, text=text, data=data
    )


def end(session_id: str, data: str | None = None, *, is_owner: bool = True) -> Rewrite:
    return Rewrite(
        session_id=session_id, offset=1, state="done", data=data, is_owner=is_owner
    )


def do(*requests: Request, limits: LogLimits = LIMITS) -> list[type[object]]:
    return [type(one) for one in commit(requests, limits)]


def read_data(session_id: str) -> str:
    return HistoryEntry.objects.get(session=session_id).data


def test_every_reader_sees_the_whole_text() -> None:
    session_id = begin()
    do(grow(session_id, 1, "Hé", '{"text":"Hé"}'))
    do(grow(session_id, 2, "llo"), grow(session_id, 3, " 😀"))
    assert read_data(session_id) == '{"text":"Hé"}'
    _, streaming = read_positions([session_id])
    for entries in (
        read_entries_after(session_id, 0, 5),
        read_entries_at(session_id, [1]),
        read_latest_entries(session_id, 2, 5),
        list(streaming[session_id].values()),
    ):
        assert [entry.data for entry in entries] == ['{"text":"Héllo 😀"}']
    assert read_usage("alice")[1] >= len("Héllo 😀".encode())


@pytest.mark.parametrize("state", ["done", "streaming"])
def test_parts_count_for_what_is_read_at_once(state: str) -> None:
    session_id = make_session()
    large = '{"id":"r","type":"reasoning","text":"' + "x" * 150_000 + '"}\n'
    for offset in range(1, 6):
        row = HistoryEntry.objects.create(
            session_id=session_id, offset=offset, state=state, data='{"text":""}'
        )
        if state == "streaming":
            fields = {"kind": "parts", "text": large, "owner": "n"}
            EntryChunk.objects.create(entry=row, sequence=1, **fields)
        else:
            HistoryEntry.objects.filter(pk=row.pk).update(parts=large)
    after = read_entries_after(session_id, 0, 5)
    assert [one.offset for one in after] == [1, 2]
    latest = read_latest_entries(session_id, 6, 5)
    assert [one.offset for one in latest] == [4, 5]
    assert len(read_latest_entries(session_id, 6, 5, 500_000)) == 4


@pytest.mark.parametrize(
    ("texts", "statements"),
    [(["1"], 1), (["1"] * 20, 1), (["1", f'"{"x" * 5_000}"', "2"], 2)],
    ids=["one", "small", "one-large"],
)
def test_small_entries_are_read_by_one_statement(
    texts: list[str], statements: int, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    session_id = make_session()
    rows = [
        HistoryEntry(session_id=session_id, offset=offset, state="done", data=text)
        for offset, text in enumerate(texts, 1)
    ]
    HistoryEntry.objects.bulk_create(rows)
    with django_assert_num_queries(statements):
        found = read_entries_after(session_id, 0, 100)
    assert [(one.offset, one.data) for one in found] == [*enumerate(texts, 1)]


def test_many_large_entries_take_few_parameters() -> None:
    """Databases have a limit of them, and a session may keep 100,000 entries."""
    session_id = make_session()
    rows = [
        HistoryEntry(session_id=session_id, offset=offset, state="done", data="12345")
        for offset in range(1, 201)
    ]
    HistoryEntry.objects.bulk_create(rows)
    counts: list[int] = []

    def count_parameters(execute: Any, sql: str, params: Any, *rest: Any) -> Any:
        counts.append(len(params or ()))
        return execute(sql, params, *rest)

    with connection.execute_wrapper(count_parameters):
        assert len(read_entries_after(session_id, 0, 100_000)) == 200
    assert len(counts) == 2 and max(counts) < 50


def test_only_entries_that_memory_lacks_are_read() -> None:
    tail = Tail("s", Passes(), on_doubt=lambda tail: None)
    for offset in (5, 6, 7, 8):
        at = timezone.now()
        tail.take(
            Entry(offset=offset, kind="message", sender="client", at=at, data="1")
        )
    assert tail.count_missing(9, 100) == 100
    assert tail.count_missing(3, 100) == 2
    assert tail.count_missing(3, 1) == 1


def test_staff_see_the_whole_text(admin_client: Client) -> None:
    session_id = begin()
    do(grow(session_id, 1, "so far"))
    entry = HistoryEntry.objects.get()
    for name, arguments in (("changelist", []), ("change", [entry.pk])):
        url = reverse(f"admin:sessions_history_historyentry_{name}", args=arguments)
        assert "so far" in admin_client.get(url).content.decode()


def test_a_chunk_that_is_sent_again_counts_once() -> None:
    """Also if the text has grown meanwhile, and within one commit."""
    session_id = begin()
    do(grow(session_id, 1, "a"), grow(session_id, 1, "ab"))
    do(grow(session_id, 1, "abc"), grow(session_id, 2, "d"))
    do(grow(session_id, 2, "de"))
    assert read_entries_at(session_id, [1])[0].text == "abcde"


@pytest.mark.parametrize("is_one_commit", [True, False])
@pytest.mark.parametrize("data", [None, '{"text":"abc"}'])
def test_the_chunks_are_folded_when_the_entry_ends(
    is_one_commit: bool, data: str | None
) -> None:
    session_id = begin()
    requests = (grow(session_id, 1, "ab"), grow(session_id, 2, "c"))
    last = end(session_id, data)
    if is_one_commit:
        assert do(*requests, last, grow(session_id, 3, "late")) == [
            *[Committed] * 3,
            StreamEnded,
        ]
    else:
        do(*requests)
        do(last)
        assert do(grow(session_id, 3, "late")) == [StreamEnded]
    assert read_data(session_id) == '{"text":"abc"}'
    assert not EntryChunk.objects.exists()


def test_another_node_adds_no_chunk_and_ends_the_whole_text() -> None:
    session_id = begin()
    do(grow(session_id, 1, "text"))
    assert do(grow(session_id, 2, "no"), limits=OTHER) == [StreamEnded]
    assert do(end(session_id), limits=OTHER) == [StreamEnded]
    assert do(end(session_id, is_owner=False), limits=OTHER) == [Committed]
    assert read_data(session_id) == '{"text":"text"}'


def test_what_has_a_chunk_is_not_begun_anew() -> None:
    session_id = make_session()
    commit(
        [
            make_append(session_id),
            make_append(session_id, data='{"text":""}', state="streaming"),
        ],
        LIMITS,
    )
    growth = Growth(session_id=session_id, offset=2, sequence=1, text="half")
    do(growth)
    due = work.DueWork(
        session_id=session_id,
        offset=2,
        message_offset=1,
        key="",
        attempts=1,
        is_late=False,
    )
    assert work.read_answer(due) is None


def test_the_sweeper_keeps_the_text_of_a_node_that_is_gone() -> None:
    session_id = begin()
    do(grow(session_id, 1, "so far"))
    HistoryEntry.objects.update(at="2020-01-01T00:00Z")
    Work.objects.all().delete()
    assert interrupt_abandoned(10) == 1
    assert read_data(session_id) == '{"text":"so far"}'
    assert not EntryChunk.objects.exists()


@pytest.mark.parametrize("state", ["streaming", "interrupted"])
def test_the_end_names_nobody_who_was_forgotten(state: str) -> None:
    """Their node was gone before the end; the call c2 was decided by another."""
    session_id = begin()
    asked = {"session_id": session_id, "offset": 1, "expires_at": timezone.now()}
    for part_id, decided_by in (("c1", ""), ("c2", "user:8")):
        Approval.objects.create(
            part_id=part_id, state="denied", decided_by=decided_by, **asked
        )
    calls = [
        f'{{"id":"c1","type":"tool_call","approval":{outcome("user:7")}}}\n',
        f'{{"id":"c2","type":"tool_call","approval":{outcome("user:8")}}}\n',
    ]
    growth = Growth(
        session_id=session_id, offset=1, sequence=1, text="", parts="".join(calls)
    )
    commit([growth], LIMITS)
    HistoryEntry.objects.update(state=state)
    if state == "streaming":
        commit([end(session_id, is_owner=False)], OTHER)
    else:
        assert chunks.fold_left(10) == 1
    parts = HistoryEntry.objects.get().parts
    assert "user:7" not in parts
    assert parts.splitlines()[1] == calls[1].strip()


def outcome(member: str) -> str:
    return f'{{"state":"denied","by":"{member}"}}'


def test_the_sweeper_folds_what_the_previous_release_ended() -> None:
    """It changes the state or deletes the entry, and knows no chunks."""
    session_id, trimmed = begin(), begin()
    for one in (session_id, trimmed):
        do(grow(one, 1, "so far"))
    HistoryEntry.objects.filter(session=session_id).update(state="cancelled")
    with connection.cursor() as cursor:
        sql = "DELETE FROM sessions_history_historyentry WHERE session_id = %s"
        cursor.execute(sql, [trimmed])
    assert read_entries_at(session_id, [1])[0].text == "so far"
    assert chunks.count_left() == chunks.fold_left(10) == 2
    assert read_data(session_id) == '{"text":"so far"}'
    assert not EntryChunk.objects.exists()


def test_a_stream_that_goes_on_is_not_folded() -> None:
    do(grow(begin(), 1, "so far"))
    assert chunks.count_left() == chunks.fold_left(10) == 0
    assert EntryChunk.objects.exists()


def test_a_deleted_session_leaves_no_chunk() -> None:
    do(grow(begin(), 1, "text"))
    Session.objects.all().delete()
    assert not EntryChunk.objects.exists()


class Counting(SwitchableDatabase):
    """A database that records the chunks that it has committed."""

    def __init__(self) -> None:
        super().__init__()
        self.growths: list[Growth] = []

    async def write_urgently(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().write_urgently(work, *args, **kwargs)
        finally:
            if work is commit:
                self.growths += [one for one in args[0] if isinstance(one, Growth)]


async def test_a_text_costs_no_more_than_a_few_times_its_length(
    make_node: MakeNode,
) -> None:
    """Until then a text of n writes cost n * n / 2 of them."""
    database = Counting()
    node = make_node(database)
    log = get_log(node)
    async with talk(node) as alice, log.stream(alice.session_id) as stream:
        for count in range(1, 17):
            await stream.write("x" * 1000)
            await wait_until(lambda: len(database.growths) >= count)  # noqa: B023
    written = sum(len(one.text) + len(one.data or "") for one in database.growths)
    assert written < 4 * 16_000


async def test_a_lost_reply_doubles_no_chunk(make_node: MakeNode) -> None:
    database = Counting()
    node = make_node(database)
    async with talk(node) as alice:
        async with get_log(node).stream(alice.session_id) as stream:
            database.loses_reply = True
            await stream.write("one ")
            await wait_until(lambda: not database.loses_reply)
            await stream.write("two")
            await wait_until(
                lambda: any(one.text == "one two" for one in database.growths)
            )
            assert {one.sequence for one in database.growths} == {1}
            rows = [row.text async for row in EntryChunk.objects.all()]
            assert rows == ["one two"]
        entry = await HistoryEntry.objects.aget()
    assert json.loads(entry.data) == {"text": "one two"}


async def test_another_node_shows_the_text_as_it_grows(make_node: MakeNode) -> None:
    """By its check of positions: there is no Redis here."""
    log = get_log(make_node())
    reader = make_node(sessions={"position_seconds": 0.05})
    async with talk(reader) as alice:
        await alice.say_and_wait("x")
        async with log.stream(alice.session_id) as stream:
            await alice.receive_offsets(2)
            shown = ""
            for piece in ("one ", "two ", "3"):
                await stream.write(piece)
                while shown != stream.text:
                    shown += (await alice.receive_type("delta"))["text"]
        assert (await alice.receive_type("state"))["state"] == "done"


def test_a_hint_that_was_lost_makes_a_hole_that_is_not_filled_with_another() -> None:
    tail = Tail("s", Passes(), on_doubt=print)
    entry = Entry(
        offset=1,
        kind="message",
        sender="server",
        at=timezone.now(),
        data='{"text":"one "}',
        state="streaming",
    )
    assert not tail.extend(1, 0, "one ")
    tail.take(entry)
    assert tail.extend(1, 4, "two ")
    assert not tail.extend(1, 12, "four")
    assert tail.growing[1].text == "one two "
    # An overlap, as after a lost reply, and a hint that comes late.
    assert tail.extend(1, 4, "two three ")
    assert tail.extend(1, 0, "one ")
    assert tail.growing[1].text == "one two three "
    tail.take(entry.with_text("one two three four", "done"))
    assert tail.extend(1, 14, "four")
    assert not tail.growing


def resume(offset: int, number: int) -> Entry:
    """Return an entry that a commit resumed."""
    return Entry(
        offset=offset,
        kind="message",
        sender="server",
        at=timezone.now(),
        data='{"text":""}',
        state="streaming",
        chain=f"1-{'a' * 12} {number}-{'b' * 12}",
    )


def test_a_tail_names_each_resumption_once_in_order() -> None:
    tail = Tail("s", Passes(), on_doubt=lambda tail: None)
    for offset, number in [(1, 7), (2, 8), (1, 9), (1, 9), (2, 8)]:
        tail.take(resume(offset, number))
    assert (tail.resumed.get(1), tail.resumed.get(2), tail.resumed.get(3)) == (9, 8, 0)
    assert tail.resumed.count == 3
    found = [tail.resumed.find_next(count) for count in range(4)]
    assert found == [(2, 2), (2, 2), (1, 3), (0, 3)]


def test_a_tail_forgets_the_resumptions_of_long_ago() -> None:
    tail = Tail("s", Passes(), on_doubt=lambda tail: None)
    for number in range(1, 1501):
        tail.take(resume(number, number))
    resumed = tail.resumed
    assert (resumed.count, resumed.forgotten, resumed.get(500)) == (1500, 500, 0)
    assert resumed.find_next(500) == (501, 501)


async def test_a_client_that_missed_forgotten_resumptions_has_to_attach_anew() -> None:
    tail = Tail("s", Passes(), on_doubt=lambda tail: None)
    tail.move_to(2000)
    connection = make_connection("c1")
    room, sent = asyncio.Event(), list[str]()

    async def send(text: str) -> None:
        sent.append(text)
        await room.wait()

    database = Database()
    subscriber = Subscriber(tail, database=database, connection=connection, send=send)
    await subscriber.start(2000)
    tail.resumed.add(1, 1)
    tail.notify()
    await wait_until(lambda: bool(sent))
    for number in range(2, 1103):
        tail.resumed.add(number, number)
    tail.notify()
    room.set()
    await wait_until(lambda: connection.close_reason is not None)
    assert connection.close_reason is SLOW_CONSUMER
    assert len(sent) == 1
    subscriber.close()
    await database.close()


def test_a_chunk_after_a_hole_is_refused() -> None:
    """A backup that is restored under a stream lacks the chunks before it."""
    session_id = begin()
    assert do(grow(session_id, 1, "one ")) == [Committed]
    EntryChunk.objects.all().delete()
    assert do(grow(session_id, 2, "two")) == [ChunksLost]
    assert not EntryChunk.objects.exists()
    assert do(grow(session_id, 1, "one again")) == [Committed]


async def test_an_answer_whose_chunks_were_lost_ends_with_its_whole_text(
    make_node: MakeNode,
) -> None:
    database = Counting()
    node = make_node(database)
    async with talk(node) as alice:
        with pytest.raises(StreamEnded):
            async with get_log(node).stream(alice.session_id) as stream:
                await stream.write("one ")
                await wait_until(lambda: len(database.growths) == 1)
                await EntryChunk.objects.all().adelete()
                await stream.write("two ")
                await asyncio.sleep(scale(20))
        entry = await HistoryEntry.objects.aget()
    assert (entry.state, json.loads(entry.data)) == (
        "interrupted",
        {"text": "one two "},
    )
