"""Entries and streams that code outside of a node writes."""

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import FrameType
from typing import Any

import pytest
from django.db import transaction
from django.test import override_settings

from connections.node.node import Node
from connections.storage.database import Database
from connections.testing.communicators import make_config
from connections.testing.waiting import scale, wait_until
from sessions_history import writer
from sessions_history.exceptions import (
    EntryTooLarge,
    InTransaction,
    KeyReused,
    SessionNotFound,
    StreamBusy,
    StreamEnded,
    StreamFinished,
)
from sessions_history.models import HistoryEntry, Work
from sessions_history.writer import append, append_sync, open_stream
from sessions_history.writer_log import choose_renewal_seconds
from tests.integration.redis_process import RedisProcess
from tests.sessions_history.appends import in_thread, make_session
from tests.sessions_history.conftest import MakeNode
from tests.sessions_history.talks import Talk, talk

pytestmark = pytest.mark.django_db(transaction=True)

QUICK: dict[str, Any] = {
    "node": {"node_timeout_seconds": 1},
    "sessions": {"position_seconds": 0.1},
}
"""Of nodes: they soon take over what others left."""

PATIENT: dict[str, Any] = {**QUICK, "node": {"node_timeout_seconds": 60}}
"""Of this process: its leases outlast a pause of the machine."""


@pytest.fixture(autouse=True)
def writing_process() -> Iterator[None]:
    """The writer of this process, which is no node here."""
    with override_settings(WEBSOCKET=make_config(**PATIENT)):
        yield
        writer.close()


async def make_in_thread(client_id: str = "alice") -> str:
    session_id: str = await in_thread(lambda: make_session(client_id))
    return session_id


async def read_entry(session_id: str, offset: int = 1) -> HistoryEntry:
    return await HistoryEntry.objects.aget(session=session_id, offset=offset)


async def kill_owner(session_id: str) -> None:
    """Make the works of a session those of a process that died a while ago."""
    await HistoryEntry.objects.filter(session=session_id).aupdate(node="dead")
    await Work.objects.filter(session=session_id).aupdate(
        owner="dead", leased_until="2020-01-01T00:00Z"
    )


class Screen:
    """A session as a client shows it."""

    def __init__(self, watching: Talk) -> None:
        self._watching = watching
        self.texts: dict[int, str] = {}
        self.states: dict[int, str] = {}

    async def read_until(self, offset: int, state: str) -> str:
        """Apply messages until an entry has a state; return its text."""
        async with asyncio.timeout(scale(20)):
            while self.states.get(offset) != state:
                self._apply(await self._watching.receive())
        return self.texts[offset]

    def _apply(self, message: dict[str, Any]) -> None:
        offset = message.get("offset", 0)
        if message["type"] == "entry":
            self.texts[offset] = message["data"]["text"]
        elif message["type"] == "delta":
            assert message["at_char"] == len(self.texts[offset])
            self.texts[offset] += message["text"]
        self.states[offset] = message.get("state", "streaming")


async def test_a_key_appends_once_from_async_and_from_sync_code() -> None:
    session_id = await make_in_thread()
    assert await append(session_id, {"n": 1}, key="task-1") == 1
    assert await in_thread(lambda: append_sync(session_id, {"n": 1}, key="task-1")) == 1
    assert await append(session_id, {"n": 2}, key="task-2") == 2
    assert await append(session_id, {"n": 2}) == 3
    with pytest.raises(KeyReused):
        await append(session_id, {"n": 3}, key="task-1")
    with pytest.raises(KeyReused):
        async with open_stream(session_id, key="task-1"):
            pass
    assert await HistoryEntry.objects.filter(session=session_id).acount() == 3


async def test_a_watcher_gets_the_stream_of_another_process_in_order(
    make_node: MakeNode,
) -> None:
    node = make_node(**QUICK)
    async with talk(node) as alice:
        await alice.say_and_wait({"text": "hi"})
        screen = Screen(alice)
        words = [f"word{number} " for number in range(50)]

        def work() -> None:
            with open_stream(alice.session_id, key="task") as stream:
                for word in words:
                    stream.write(word)
                assert stream.text == "".join(words)

        _, shown = await asyncio.gather(in_thread(work), screen.read_until(2, "done"))
        assert shown == "".join(words)


async def test_redis_carries_the_text_and_the_cancellation(
    redis_process: RedisProcess,
) -> None:
    """No check of positions runs within the test."""
    late = {"sessions": {"position_seconds": 600}}
    config, url = make_config(**late), redis_process.url
    with override_settings(WEBSOCKET=config, REDIS_URL=url):
        node = Node(config, database=Database(), redis_url=url)
        await node.start()
        async with talk(node) as alice:
            await alice.say_and_wait({"text": "hi"})
            screen = Screen(alice)
            with contextlib.suppress(OSError):
                async with open_stream(alice.session_id, key="task") as stream:
                    await stream.write("one ")
                    raise OSError
            assert await screen.read_until(2, "error") == "one "
            async with open_stream(alice.session_id, key="task") as stream:
                await stream.write("two")
                assert await screen.read_until(2, "streaming") in ("one ", "one two")
                await alice.send(type="cancel", offset=2)
                async with asyncio.timeout(scale(20)):
                    await stream.cancelled()
            assert (await screen.read_until(2, "cancelled")).startswith("one ")
        await node.stop()
        writer.close()


async def test_a_second_attempt_goes_on_where_the_first_one_failed(
    make_node: MakeNode,
) -> None:
    node = make_node(**QUICK)
    async with talk(node) as alice:
        await alice.say_and_wait({"text": "hi"})
        screen = Screen(alice)
        with pytest.raises(OSError, match="model"):
            async with open_stream(alice.session_id, key="task") as stream:
                await stream.write("one ")
                raise OSError("the model is away")
        assert await screen.read_until(2, "error") == "one "
        async with open_stream(alice.session_id, key="task") as stream:
            assert (stream.offset, stream.text) == (2, "one ")
            await stream.write("two")
        assert await screen.read_until(2, "done") == "one two"
        with pytest.raises(StreamFinished) as finished:
            async with open_stream(alice.session_id, key="task"):
                pytest.fail("a finished stream was opened")
        assert (finished.value.state, finished.value.offset) == ("done", 2)


async def test_a_client_that_was_away_gets_what_a_second_attempt_wrote(
    make_node: MakeNode,
) -> None:
    """It holds the entry as ended, and names it not as open."""
    node = make_node(**QUICK)
    async with talk(node) as alice:
        session_id = alice.session_id
        await alice.say_and_wait({"text": "hi"})
        with contextlib.suppress(OSError):
            async with open_stream(session_id, key="task") as stream:
                await stream.write("one ")
                raise OSError
        screen = Screen(alice)
        await screen.read_until(2, "error")
    claim: dict[str, Any] = {"epoch": alice.hello["epoch"], "offset": 2}
    async with talk(node, session_id, **claim) as first:
        claim["chain"] = first.hello["chain"]
    async with open_stream(session_id, key="task") as stream:
        await stream.write("two")
    async with talk(make_node(**QUICK), session_id, **claim) as again:
        assert again.hello["outcome"] == "resumed"
        assert await Screen(again).read_until(2, "done") == "one two"
        claim["chain"] = again.hello["chain"]
    async with talk(node, session_id, **claim) as knowing:
        assert knowing.hello["outcome"] == "nothing_missed"


async def test_a_node_interrupts_the_stream_of_a_dead_process(
    make_node: MakeNode,
) -> None:
    """And a second attempt goes on with it, in the same entry."""
    node = make_node(**QUICK)
    async with talk(node) as alice:
        await alice.say_and_wait({"text": "hi"})
        screen = Screen(alice)
        async with contextlib.AsyncExitStack() as blocks:
            blocks.enter_context(contextlib.suppress(StreamEnded))
            dying = open_stream(alice.session_id, key="task")
            stream = await blocks.enter_async_context(dying)
            await stream.write("one ")
            await wait_for_text(alice.session_id, 2, "one ")
            await kill_owner(alice.session_id)
            assert await screen.read_until(2, "interrupted") == "one "
        async with open_stream(alice.session_id, key="task") as stream:
            assert stream.text == "one "
            await stream.write("two")
        assert await screen.read_until(2, "done") == "one two"


async def wait_for_text(session_id: str, offset: int, text: str) -> None:
    entries = HistoryEntry.objects.with_chunks()

    async def has_text() -> bool:
        row: Any = await entries.aget(session=session_id, offset=offset)
        return bool(row.chunks == text)

    async with asyncio.timeout(scale(20)):
        # The database has no event to wait for.
        while not await has_text():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_process_that_lost_its_lease_writes_no_more() -> None:
    """The second attempt has the entry, and the first one is told."""
    session_id = await make_in_thread()
    with pytest.raises(StreamEnded):
        async with open_stream(session_id, key="task") as slow:
            await slow.write("one ")
            await wait_for_text(session_id, 1, "one ")
            await kill_owner(session_id)
            async with asyncio.timeout(scale(20)):
                while True:
                    await slow.write("late ")
                    await asyncio.sleep(0.05)
    async with open_stream(session_id, key="task") as stream:
        assert stream.text == "one "
        await stream.write("two")
    entry = await read_entry(session_id)
    assert (entry.state, entry.data) == ("done", '{"text":"one two"}')


@pytest.mark.parametrize(("beat_seconds", "expected"), [(0.2, 0.2), (5, 1)])
def test_leases_are_renewed_once_a_beat_or_a_second(
    beat_seconds: float, expected: float
) -> None:
    config = make_config(node={"beat_seconds": beat_seconds})
    assert choose_renewal_seconds(config) == expected


@pytest.fixture
def brief_leases() -> Iterator[None]:
    """Let this process wait briefly for a stream that another task has."""
    with override_settings(WEBSOCKET=make_config(**QUICK)):
        yield
        writer.close()


@pytest.mark.usefixtures("brief_leases")
async def test_two_tasks_of_one_key_do_not_write_at_once() -> None:
    session_id = await make_in_thread()
    async with open_stream(session_id, key="task") as stream:
        await stream.write("mine")
        with pytest.raises(StreamBusy, match="Another task"):
            async with open_stream(session_id, key="task"):
                pytest.fail("a stream was opened twice")
    await HistoryEntry.objects.filter(session=session_id).aupdate(state="streaming")
    lease = {"owner": "another", "leased_until": "2100-01-01T00:00Z"}
    await Work.objects.aupdate_or_create(
        session_id=session_id,
        offset=1,
        defaults=lease,
        create_defaults={**lease, "ends_at": "2100-01-01T00:00Z"},
    )
    with pytest.raises(StreamBusy):
        async with open_stream(session_id, key="task"):
            pytest.fail("the stream of another process was opened")


async def test_cancelling_reaches_the_code_that_waits_for_it(
    make_node: MakeNode,
) -> None:
    node = make_node(**QUICK)
    async with talk(node) as alice:
        await alice.say_and_wait({"text": "hi"})
        async with open_stream(alice.session_id, key="task") as stream:
            assert not stream.is_cancelled
            await alice.send(type="cancel", offset=2, epoch=alice.hello["epoch"])
            async with asyncio.timeout(scale(20)):
                await stream.cancelled()
            assert stream.is_cancelled
            with pytest.raises(StreamEnded):
                await stream.write("more")
        with pytest.raises(StreamFinished) as finished:
            async with open_stream(alice.session_id, key="task"):
                pytest.fail("a cancelled stream was opened")
        assert finished.value.state == "cancelled"


async def test_cancelling_leaves_a_block_that_waits_for_something_else(
    make_node: MakeNode,
) -> None:
    node = make_node(**QUICK)
    async with talk(node) as alice:
        await alice.say_and_wait({"text": "hi"})
        with pytest.raises(StreamEnded, match="cancelled"):
            async with asyncio.timeout(scale(20)), open_stream(alice.session_id):
                await alice.send(type="cancel", offset=2)
                await asyncio.Event().wait()


async def test_cancelling_reaches_synchronous_code(make_node: MakeNode) -> None:
    node = make_node(**QUICK)
    opened = threading.Event()

    def work(session_id: str) -> bool:
        with open_stream(session_id) as stream:
            opened.set()
            return wait_for(lambda: stream.is_cancelled)

    def wait_for(condition: Callable[[], bool]) -> bool:
        paused = threading.Event()
        while not condition():
            paused.wait(0.02)
        return True

    async with talk(node) as alice:
        await alice.say_and_wait({"text": "hi"})
        working = asyncio.create_task(in_thread(lambda: work(alice.session_id)))
        await wait_until(opened.is_set)
        await alice.send(type="cancel", offset=2)
        assert await working is True
        assert (await read_entry(alice.session_id, 2)).state == "cancelled"


async def test_each_wrong_use_has_an_error_that_says_so() -> None:
    session_id = await make_in_thread()
    with pytest.raises(SessionNotFound, match="does not exist"):
        await append("f" * 32, 1)
    with pytest.raises(SessionNotFound, match="does not exist"):
        async with open_stream("f" * 32, key="task"):
            pass
    for key in ("k" * 100, "a\x00"):
        with pytest.raises(ValueError, match="1 to 99 printable"):
            await append(session_id, 1, key=key)
        with pytest.raises(ValueError, match="1 to 99 printable"):
            async with open_stream(session_id, key=key):
                pass
    with override_settings(WEBSOCKET=make_config(max_message_size=50, **PATIENT)):
        writer.close()
        with pytest.raises(EntryTooLarge, match=r"62 bytes.* allows 50"):
            await append(session_id, "x" * 60)
        with pytest.raises(StreamEnded, match="longer than max_message_size"):
            async with open_stream(session_id) as long:
                await long.write("x" * 60)
                await asyncio.Event().wait()
    async with open_stream(session_id) as stream:
        bad: Any = b"bytes"
        with pytest.raises(TypeError, match="str and Part, not bytes"):
            await stream.write(bad)
    with pytest.raises(StreamEnded, match="its block was left"):
        await stream.write("more")
    with pytest.raises(RuntimeError, match=r"await append\(\)"):
        append_sync(session_id, 1)
    with pytest.raises(RuntimeError, match="async with"), open_stream(session_id):
        pass


def test_a_transaction_of_the_caller_is_an_error() -> None:
    session_id = make_session()
    with transaction.atomic(), pytest.raises(InTransaction, match="committed"):
        append_sync(session_id, 1)
    assert append_sync(session_id, 1) == 1


async def test_the_entries_of_a_producer_count_for_the_client() -> None:
    session_id = await make_in_thread()
    limits = {**PATIENT, "sessions": {"max_entries_per_client": 2}}
    with override_settings(WEBSOCKET=make_config(**limits)):
        await append(session_id, 1)
        await append(session_id, 2)
        with pytest.raises(Exception, match="as many entries or bytes as it may"):
            await append(session_id, 3)
        with pytest.raises(Exception, match="as many entries or bytes as it may"):
            async with open_stream(session_id):
                pass


async def test_a_stream_of_a_cancelled_task_is_interrupted_and_goes_on() -> None:
    """As after a warm shutdown of a worker, which runs the task again."""
    session_id = await make_in_thread()
    began = asyncio.Event()

    async def work() -> None:
        async with open_stream(session_id, key="task") as stream:
            await stream.write("half")
            began.set()
            await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await began.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert (await read_entry(session_id)).state == "interrupted"
    async with open_stream(session_id, key="task") as stream:
        await stream.write(" whole")
    assert (await read_entry(session_id)).data == '{"text":"half whole"}'


class Interrupted(BaseException):
    """What the time limit of a task raises in its thread."""


@contextlib.contextmanager
def interrupted_wait() -> Iterator[None]:
    """Interrupt the main thread once it waits for a future."""
    is_done = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        caller = frame.f_back if frame is not None else None
        is_waiting = (
            frame is not None
            and frame.f_code is threading.Condition.wait.__code__
            # Before, the lock of the future would stay taken.
            and "gotit" in frame.f_locals
            and caller is not None
            and caller.f_code is Future.result.__code__
        )
        if is_waiting and not is_done.is_set():
            is_done.set()
            raise Interrupted

    def send() -> None:
        while not is_done.is_set():
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.01)

    before = signal.signal(signal.SIGUSR1, interrupt)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        is_done.set()
        sender.join()
        signal.signal(signal.SIGUSR1, before)


def test_a_stream_of_a_task_that_is_interrupted_while_it_opens_is_not_opened() -> None:
    """Another attempt would find it busy."""
    session_id = make_session()
    with pytest.raises(Interrupted), open_stream(session_id, key="task") as stream:
        stream.write("half")
        raise Interrupted
    HistoryEntry.objects.filter(session=session_id).update(state="streaming")
    works = Work.objects.filter(session=session_id)
    assert works.update(owner="another", leased_until="2100-01-01T00:00Z") == 1
    with (
        pytest.raises(Interrupted),
        interrupted_wait(),
        open_stream(session_id, key="task"),
    ):
        pytest.fail("the stream of another process was opened")
    works.update(leased_until="2020-01-01T00:00Z")
    with open_stream(session_id, key="task") as stream:
        stream.write(" whole")
    entry = HistoryEntry.objects.get(session=session_id)
    assert (entry.data, entry.state) == ('{"text":"half whole"}', "done")
