"""The queue to a consumer, the buffer to a client, the budget of them all."""

import asyncio
import contextlib
import socket
from typing import Any

import pytest

from connections.config.sections import BuffersConfig
from connections.connection.scheduling import make_fair
from connections.server.budget import COUNTED_FROM_BYTES, BufferBudget
from connections.server.transport import count_unconfirmed_bytes
from connections.server.websocket.receive_queue import ReceiveQueue
from connections.server.websocket.send_buffer import SendBuffer
from tests.connections.fake_loop import FakeLoop


class Room:
    """Counts how often a queue said that it has room again."""

    def __init__(self) -> None:
        self.count = 0

    def resume(self) -> None:
        self.count += 1

    def give_up_slow(self) -> None:
        self.count += 1


def event(number: int) -> dict[str, Any]:
    return {"type": "websocket.receive", "text": str(number)}


async def test_events_come_in_order_and_the_last_one_for_ever() -> None:
    queue = ReceiveQueue(10, 1000, Room())
    queue.put(event(1))
    queue.put(event(2))
    queue.finish({"type": "websocket.disconnect"})
    queue.put(event(3))
    assert [(await queue.get()).get("text") for _ in range(2)] == ["1", "2"]
    for _ in range(2):
        assert (await queue.get())["type"] == "websocket.disconnect"


@pytest.mark.parametrize(("messages", "size_bytes"), [(4, 1), (1000, 250)])
async def test_it_is_full_by_number_or_bytes_and_has_room_at_half(
    messages: int, size_bytes: int
) -> None:
    room = Room()
    queue = ReceiveQueue(messages, 1000, room)
    for number in range(4):
        assert not queue.is_full
        queue.put(event(number), size_bytes)
    assert queue.is_full
    await queue.get()
    assert room.count == 0
    await queue.get()
    assert room.count == 1
    await queue.get()
    assert room.count == 1, "said once for each time it was full"


@pytest.mark.parametrize(("turn_seconds", "after"), [(0, [0, 1, 2, 3]), (3600, [0])])
async def test_other_tasks_run_after_each_event_or_once_in_a_turn(
    turn_seconds: float, after: list[int]
) -> None:
    queue = ReceiveQueue(10, 1000, Room())
    assert make_fair(queue.get, turn_seconds) == queue.get
    for number in range(4):
        queue.put(event(number))
    got: list[int] = []
    ran_after: list[int] = []

    async def run_beside() -> None:
        while len(got) < 4:
            ran_after.append(len(got))
            await asyncio.sleep(0)

    beside = asyncio.create_task(run_beside())
    for _ in range(4):
        got.append(int((await queue.get())["text"]))
    await beside
    assert got == [0, 1, 2, 3]
    assert ran_after == after


async def test_a_waiting_consumer_is_woken() -> None:
    queue = ReceiveQueue(10, 1000, Room())
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.put(event(1))
    assert await waiting == event(1)


async def test_a_consumer_that_stops_waiting_loses_nothing() -> None:
    queue = ReceiveQueue(10, 1000, Room())
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.put(event(1))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await queue.get() == event(1)


async def test_what_was_handed_over_to_who_stopped_waiting_comes_first() -> None:
    queue = ReceiveQueue(10, 1000, Room())
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.put(event(1), 50)
    queue.put(event(2), 50)
    queue.finish({"type": "websocket.disconnect"})
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    got = [(await queue.get()).get("text") for _ in range(3)]
    assert got == ["1", "2", None]
    assert queue.held_bytes == 0


async def test_discarding_leaves_the_end() -> None:
    queue = ReceiveQueue(10, 1000, Room())
    queue.put(event(1), 100)
    queue.finish({"type": "websocket.disconnect"})
    queue.discard()
    assert queue.held_bytes == 0
    assert (await queue.get())["type"] == "websocket.disconnect"


class StubLine:
    """As much of a line as a SendBuffer uses."""

    def __init__(self) -> None:
        self.unsent_bytes = 0
        self.unconfirmed_bytes = 0

    def write(self, data: bytes) -> None:
        self.unsent_bytes += len(data)


LIMITS = BuffersConfig(
    send_high_water=200_000, max_send_buffer=500_000, send_stall_seconds=10
)


class Sending:
    """A buffer on a line that takes what the test says, and a fake loop."""

    def __init__(self) -> None:
        self.line = StubLine()
        self.loop = FakeLoop()
        self.slow = Room()
        self.buffer = SendBuffer(
            self.line,  # type: ignore[arg-type]
            LIMITS,
            self.loop,  # type: ignore[arg-type]
            self.slow,
        )

    def take(self, size_bytes: int | None = None) -> None:
        """Let the kernel take some, or everything."""
        if size_bytes is None:
            self.line.unsent_bytes = 0
            self.buffer.on_drained()
        else:
            self.line.unsent_bytes -= size_bytes


async def is_waiting(task: asyncio.Task[None]) -> bool:
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return not task.done()


async def test_a_sender_waits_above_the_mark_until_all_is_taken() -> None:
    sending = Sending()
    sending.buffer.write(bytes(200_000))
    await sending.buffer.wait_for_room()
    sending.buffer.write(b"x")
    waiting = asyncio.create_task(sending.buffer.wait_for_room())
    assert await is_waiting(waiting)
    sending.take()
    await waiting


async def test_senders_that_wait_go_on_at_the_end() -> None:
    sending = Sending()
    sending.buffer.write(bytes(200_001))
    waiting = [asyncio.create_task(sending.buffer.wait_for_room()) for _ in range(3)]
    assert await is_waiting(waiting[0])
    sending.buffer.close()
    await asyncio.gather(*waiting)
    sending.buffer.write(b"after the end")
    assert sending.buffer.unsent_bytes == 200_001


async def count_turns_of_others(sending: Sending, messages: int) -> int:
    """Send messages of 1 kB as a handler does in a loop; count who else ran."""
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    others = asyncio.create_task(take_turns())
    for _ in range(messages):
        if sending.buffer.should_wait:
            await sending.buffer.wait_for_room()
        sending.buffer.write(bytes(1000))
        sending.take()
    others.cancel()
    return turns


async def test_others_have_their_turn_while_a_client_takes_all_it_is_sent() -> None:
    assert await count_turns_of_others(Sending(), 60) == 0
    assert await count_turns_of_others(Sending(), 700) >= 9


async def test_others_have_their_turn_though_nobody_is_there_to_be_sent_to() -> None:
    sending = Sending()
    sending.buffer.close()
    assert await count_turns_of_others(sending, 700) >= 600


async def test_one_message_may_be_larger_than_the_buffer() -> None:
    sending = Sending()
    sending.buffer.write(bytes(5_000_000))
    assert sending.slow.count == 0


async def test_sends_that_cannot_wait_have_an_end() -> None:
    sending = Sending()
    for _ in range(5):
        sending.buffer.write(bytes(100_000))
    assert sending.slow.count == 0
    sending.buffer.write(b"x")
    assert sending.slow.count == 1


async def test_a_client_that_takes_nothing_is_slow_in_time() -> None:
    sending = Sending()
    sending.buffer.write(bytes(300_000))
    sending.loop.advance(9.9)
    assert sending.slow.count == 0
    sending.loop.advance(2.6)
    assert sending.slow.count == 1


async def test_who_waits_for_what_tls_has_added_is_not_forgotten() -> None:
    """The frame was below the mark; what TLS made of it is above."""
    sending = Sending()
    sending.buffer.write(bytes(199_990))
    sending.line.unsent_bytes += 100
    waiting = asyncio.create_task(sending.buffer.wait_for_room())
    assert await is_waiting(waiting)
    sending.loop.advance(12.6)
    assert sending.slow.count == 1
    waiting.cancel()


async def test_a_client_that_trickles_is_slow_too() -> None:
    sending = Sending()
    sending.buffer.write(bytes(300_000))
    for _ in range(13):
        sending.take(1000)
        sending.loop.advance(1)
    assert sending.slow.count == 1


async def test_a_client_that_takes_its_time_is_not() -> None:
    sending = Sending()
    sending.buffer.write(bytes(2_000_000))
    for _ in range(20):
        sending.take(66_000)
        sending.loop.advance(5)
    assert sending.slow.count == 0


async def test_below_the_mark_nobody_is_watched() -> None:
    sending = Sending()
    sending.buffer.write(bytes(300_000))
    sending.take(200_000)
    sending.loop.advance(100)
    assert sending.slow.count == 0


class Holder:
    """Who holds bytes, and was ended for it."""

    def __init__(self, budget: BufferBudget) -> None:
        self.budget = budget
        self.is_shed = False

    def end_over_budget(self) -> None:
        self.is_shed = True
        self.budget.forget(self)


def test_the_largest_goes_when_all_together_hold_too_much() -> None:
    budget = BufferBudget(100_000)
    small, large, newest = (Holder(budget) for _ in range(3))
    budget.record(small, 30_000)
    budget.record(large, 50_000)
    budget.record(newest, 20_000)
    assert not large.is_shed
    budget.record(newest, 20_001)
    assert (small.is_shed, large.is_shed, newest.is_shed) == (False, True, False)
    assert budget.total_bytes == 50_001


def test_what_was_let_go_counts_no_more() -> None:
    budget = BufferBudget(100_000)
    holder, other = Holder(budget), Holder(budget)
    budget.record(holder, 90_000)
    budget.record(holder, COUNTED_FROM_BYTES - 1)
    assert budget.total_bytes == 0
    budget.record(holder, 90_000)
    budget.forget(holder)
    budget.forget(holder)
    budget.record(other, 90_000)
    assert budget.total_bytes == 90_000
    assert not other.is_shed


def test_a_ping_moves_while_bytes_before_it_are_confirmed() -> None:
    """Once they are, its own confirmation is no progress: the kernel gives it."""
    sending = Sending()
    sending.buffer.write(bytes(100_000))
    sending.buffer.follow_ping()
    sending.buffer.write(b"ping")
    assert not sending.buffer.has_ping_moved()
    sending.line.unsent_bytes, sending.line.unconfirmed_bytes = 20_004, 70_000
    assert sending.buffer.has_ping_moved()
    assert not sending.buffer.has_ping_moved()
    sending.line.unsent_bytes, sending.line.unconfirmed_bytes = 0, 0
    assert sending.buffer.has_ping_moved()
    assert not sending.buffer.has_ping_moved()


def test_a_ping_behind_nothing_does_not_move() -> None:
    sending = Sending()
    sending.buffer.write(bytes(1000))
    sending.line.unsent_bytes = 0
    sending.buffer.follow_ping()
    sending.buffer.write(b"ping")
    sending.line.unsent_bytes = 0
    assert not sending.buffer.has_ping_moved()


async def test_the_kernel_tells_what_a_client_has_not_confirmed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        writer = socket.create_connection(server.getsockname())
        reader, _ = server.accept()
    with writer, reader:
        writer.setblocking(False)
        assert count_unconfirmed_bytes(writer.fileno()) == 0
        with contextlib.suppress(BlockingIOError):
            while True:
                writer.send(bytes(100_000))
        assert count_unconfirmed_bytes(writer.fileno()) > 0
    assert count_unconfirmed_bytes(writer.fileno()) == 0
