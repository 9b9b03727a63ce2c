"""
A drain against a model of its promises to clients, in virtual time.

Clients connect, send, leave, are kicked or do not answer, in any order, before and
during drains that are begun, repeated, cancelled and cut short.
"""

import asyncio
import itertools
import json
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from connections import close_codes
from connections.asgi import TRANSPORT, with_extension
from connections.consumers import LimitedConsumer, LimitedJsonConsumer
from connections.credentials.identity import Credential
from connections.node.node import Node
from connections.server.drain import drain
from connections.testing.communicators import make_config
from tests.connections.drained_server import FakeServer
from tests.connections.virtual_loop import VirtualTime

DRAINING, KICKED = close_codes.DRAINING.code, close_codes.KICKED.code
CLOSED = 1000

EVICT_GRACE_SECONDS = 2
ABORTED_WITHIN_SECONDS = 1
TOLERANCE_SECONDS = 0.002
"""after_ms is in whole milliseconds."""


class _Recording:
    """Records its disconnects with the client that it serves."""

    scope: dict[str, Any]

    async def disconnect(self, code: int) -> None:
        self.scope["client_side"].disconnects.append(code)


class Talker(_Recording, LimitedJsonConsumer):
    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.send_json({"type": "echo"})


class Plain(_Recording, LimitedConsumer):
    async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
        await self.send(text_data=text_data)


class Stuck(_Recording, LimitedConsumer):
    """Never returns from its first message."""

    async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
        await asyncio.Event().wait()


class FakeTransport:
    """A transport of our own server, as far as a node uses it."""

    close_reason = None
    unsent_bytes = 0
    rtt_seconds = None

    def __init__(self, client: "Client") -> None:
        self._client = client

    @property
    def has_left(self) -> bool:
        return self._client.has_left

    def abort(self) -> None:
        self._client.hang_up(1006)


class Client:
    """One client and the server's side of its connection."""

    def __init__(
        self,
        node: Node,
        time: VirtualTime,
        consumer: type[LimitedConsumer],
        number: int,
        *,
        answers_after: float | None,
        has_transport: bool,
    ) -> None:
        self.is_json = consumer is Talker
        self.is_stuck = consumer is Stuck
        self.answers_after = answers_after
        """Seconds until it answers a close frame; None: it never does."""
        self.connection_id = ""
        self.disconnects: list[int] = []
        self.echoes = 0
        self.bye_at: float | None = None
        self.after_ms = 0
        self.closed_at: float | None = None
        self.close_code: int | None = None
        self.has_left = False
        self._time = time
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        scope: dict[str, Any] = {
            "type": "websocket",
            "path": "/ws/",
            "query_string": b"",
            "headers": [],
            "subprotocols": [],
            "node": node,
            "credential": Credential(client_id=f"client-{number}"),
            "client_side": self,
        }
        if has_transport:
            scope = with_extension(scope, TRANSPORT, FakeTransport(self))
        self._inbox.put_nowait({"type": "websocket.connect"})
        served = consumer.as_asgi()(scope, self._inbox.get, self._take)
        self.task = asyncio.get_running_loop().create_task(served)
        self.task.add_done_callback(lambda task: self.hang_up(1006))

    def send_text(self) -> None:
        text = '{"type": "anything"}'
        self._inbox.put_nowait({"type": "websocket.receive", "text": text})

    def hang_up(self, code: int) -> None:
        """Close the socket, from either side."""
        if not self.has_left:
            self.has_left = True
            self._inbox.put_nowait({"type": "websocket.disconnect", "code": code})

    async def _take(self, message: dict[str, Any]) -> None:
        now = self._time()
        assert self.closed_at is None, "nothing comes after the close frame"
        if message["type"] == "websocket.close":
            self.closed_at, self.close_code = now, message["code"]
            if self.answers_after is not None:
                loop = asyncio.get_running_loop()
                loop.call_later(self.answers_after, self.hang_up, message["code"])
        elif message["type"] == "websocket.accept":
            headers = dict(message["headers"])
            self.connection_id = headers[b"x-connection-id"].decode()
        elif self.is_json:
            content = json.loads(message["text"])
            if content["type"] == "bye" and content["code"] == DRAINING:
                assert self.bye_at is None, "bye is sent once"
                self.bye_at, self.after_ms = now, content["after_ms"] or 0
            elif content["type"] == "echo":
                self.echoes += 1


class Records:
    """A recorder that keeps what it is called with."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.closed: dict[str, list[str]] = {}

    def record_change(self, connection: Any) -> None:
        if connection.connection_id not in self.opened:
            self.opened.append(connection.connection_id)

    def record_closed(self, connection: Any, code: int | None, reason: str) -> None:
        self.closed.setdefault(connection.connection_id, []).append(reason)

    def record_error(self, error: Any) -> None:
        raise AssertionError(f"a handler failed: {error.exception_class}")


_CONSUMERS = st.sampled_from([Talker, Talker, Plain, Stuck])
_ANSWERS = st.sampled_from([0, 0, 0.3, None])


class DrainMachine(RuleBasedStateMachine):
    """A node and its clients, against the promises of a drain."""

    @initialize(
        grace_seconds=st.sampled_from([0, 0.5, 3, 20]),
        crowd=st.lists(st.tuples(_CONSUMERS, _ANSWERS, st.booleans()), max_size=10),
    )
    def start(self, grace_seconds: float, crowd: list[tuple[Any, Any, bool]]) -> None:
        self.time = VirtualTime()
        self.grace_seconds = grace_seconds
        self.node = Node(
            make_config(
                drain={"grace_seconds": grace_seconds},
                evict_grace_seconds=EVICT_GRACE_SECONDS,
                idle_timeout_seconds=0,
            ),
            clock=self.time,
        )
        self.records = Records()
        self.node.recorder = self.records  # type: ignore[assignment]
        self.clients: list[Client] = []
        self.admitted: list[Client] = []
        # Clients that a drain asked to leave, and their deadline.
        self.leave_by: dict[Client, float] = {}
        self.slotless: set[Client] = set()
        self.kicked: set[Client] = set()
        self.left: set[Client] = set()
        self.drains: list[tuple[asyncio.Task[None], float]] = []
        self.is_skipped = False
        for consumer, answers_after, has_transport in crowd:
            self.connect(consumer, answers_after, has_transport)

    # Events

    @rule(consumer=_CONSUMERS, answers_after=_ANSWERS, has_transport=st.booleans())
    def connect(
        self,
        consumer: type[LimitedConsumer],
        answers_after: float | None,
        has_transport: bool,
    ) -> None:
        was_draining = self.node.is_draining

        async def open_client() -> Client:
            return Client(
                self.node,
                self.time,
                consumer,
                len(self.clients),
                answers_after=answers_after,
                has_transport=has_transport,
            )

        client = self.time.run(open_client())
        self.time.settle()
        self.clients.append(client)
        if was_draining:
            assert client.close_code == DRAINING, "a draining node admits no connection"
            assert client.connection_id not in self.node.hub
        else:
            assert client.connection_id in self.node.hub
            self.admitted.append(client)

    @precondition(lambda self: self.open_clients)
    @rule(index=st.integers(0, 1000))
    def talk(self, index: int) -> None:
        """Messages are served until the close frame."""
        client = self.pick(index)
        before = client.echoes
        client.send_text()
        self.time.settle()
        if client.is_json:
            assert client.echoes == before + 1

    @precondition(lambda self: self.open_clients)
    @rule(index=st.integers(0, 1000))
    def leave(self, index: int) -> None:
        client = self.pick(index)
        self.left.add(client)
        client.hang_up(CLOSED)
        self.time.settle()

    @precondition(lambda self: self.open_clients)
    @rule(index=st.integers(0, 1000))
    def kick(self, index: int) -> None:
        client = self.pick(index)
        self.kicked.add(client)

        async def end() -> None:
            connection = self.node.hub.get(str(client.connection_id))
            assert connection is not None
            connection.end(close_codes.KICKED)

        self.time.run(end())
        self.time.settle()
        assert client.close_code == KICKED

    @precondition(lambda self: self.open_clients)
    @rule(is_called_off=st.booleans())
    def drain(self, is_called_off: bool) -> None:
        """Staff drains a node, or a signal stops it, or one after the other."""
        asked = [client for client in self.open_clients if client not in self.leave_by]
        here = [
            client
            for client in self.admitted
            if client.connection_id in self.node.hub and client not in self.leave_by
        ]
        now = self.time()

        async def begin() -> asyncio.Task[None]:
            return asyncio.create_task(self.node.drain())

        self.drains.append((self.time.run(begin()), now))
        self.time.settle()
        self.slotless.update(self.admitted)
        for client in asked:
            self.leave_by[client] = now + self.grace_seconds
        if self.is_skipped:
            self.time.advance(ABORTED_WITHIN_SECONDS)
            return
        notified = [client for client in asked if client.is_json]
        assert all(client.bye_at == now for client in notified), "bye comes at once"
        self.check_spread(sorted(client.after_ms for client in notified), len(here))
        if is_called_off:
            self.call_off()

    def check_spread(self, moments: list[int], count: int) -> None:
        """Closes are spread, because clients reconnect elsewhere at once."""
        if not moments:
            return
        grace_ms = 1000 * self.grace_seconds
        assert moments[0] >= 0
        assert moments[-1] <= max(grace_ms - 2000, grace_ms / 2), "its end is reserved"
        assert moments[-1] <= 100 * count, "few need not wait long"
        gaps = [later - one for one, later in itertools.pairwise(moments)]
        assert all(gaps) or not grace_ms
        if len(moments) == count:
            assert not gaps or max(gaps) - min(gaps) <= 2

    @precondition(lambda self: self.node.is_draining)
    @rule()
    def call_off(self) -> None:
        """Staff returns the node to service; clients that got `bye` still leave."""
        for task, _ in self.running:
            task.cancel()
        self.time.settle()
        self.drains = []
        self.node.end_drain()

    @precondition(lambda self: self.running)
    @rule()
    def skip(self) -> None:
        """A second signal cuts the grace period short."""
        self.is_skipped = True
        self.node.skip_grace()
        self.time.advance(ABORTED_WITHIN_SECONDS)
        assert not self.running

    @rule(seconds=st.sampled_from([0.02, 0.1, 0.5, 2, 12]))
    def wait(self, seconds: float) -> None:
        self.time.advance(seconds)

    # Invariants

    @property
    def open_clients(self) -> list[Client]:
        """Admitted clients without a close frame or disconnect."""
        return [
            client
            for client in self.admitted
            if client.closed_at is None and not client.has_left
        ]

    @property
    def running(self) -> list[tuple[asyncio.Task[None], float]]:
        return [(task, since) for task, since in self.drains if not task.done()]

    def pick(self, index: int) -> Client:
        clients = self.open_clients
        return clients[index % len(clients)]

    @invariant()
    def only_staying_connections_have_slots(self) -> None:
        """A client that got `bye` has no slot, so it may connect elsewhere first."""
        staying = {
            client.connection_id
            for client in self.admitted
            if client not in self.slotless
        }
        held = {one.connection_id for one in self.node.hub} & staying
        usage = self.time.run(self.node.get_usage())
        assert usage.slots == len(held)

    @invariant()
    def each_closes_at_its_announced_time(self) -> None:
        now = self.time()
        for client, leave_by in self.leave_by.items():
            if client in self.kicked or client in self.left or self.is_skipped:
                continue
            due = leave_by
            if client.bye_at is not None:
                due = client.bye_at + client.after_ms / 1000
            if client.closed_at is None and client.has_left:
                assert now >= leave_by - TOLERANCE_SECONDS, "aborted before its time"
            elif client.closed_at is None:
                assert now <= due + TOLERANCE_SECONDS, "it was promised to be closed"
            elif client.bye_at is not None:
                assert abs(client.closed_at - due) <= TOLERANCE_SECONDS
                assert client.close_code == DRAINING
            else:
                assert client.closed_at <= due + TOLERANCE_SECONDS

    @invariant()
    def a_drain_ends_with_its_grace_or_its_last_client(self) -> None:
        for _, since in self.running:
            assert len(self.node.hub), "no connection is left to wait for"
            limit = self.grace_seconds + ABORTED_WITHIN_SECONDS
            assert self.time() <= since + limit + TOLERANCE_SECONDS

    @invariant()
    def a_finished_drain_leaves_no_connection(self) -> None:
        for task, _ in self.drains:
            if task.done():
                task.result()
                assert not len(self.node.hub)

    @invariant()
    def each_end_is_recorded_once_with_its_reason(self) -> None:
        for client in self.admitted:
            reasons = self.records.closed.get(str(client.connection_id), [])
            if client.connection_id in self.node.hub:
                assert reasons == []
                continue
            allowed = {"draining"} if client in self.slotless else set()
            if client in self.kicked:
                allowed = {"kicked"}
            if client in self.left:
                allowed |= {"closed"}
            assert len(reasons) == 1
            assert reasons[0] in allowed

    def teardown(self) -> None:
        """A last drain leaves nothing behind, whatever happened before."""
        if not hasattr(self, "time"):
            return
        with self.time:
            self.time.run(self.node.drain())
            self.time.advance(EVICT_GRACE_SECONDS + ABORTED_WITHIN_SECONDS)
            assert not len(self.node.hub)
            assert self.time.run(self.node.get_usage()).slots == 0
            assert all(client.task.done() for client in self.clients)
            assert self.node.counters.consumers == 0
            for client in self.admitted:
                assert len(client.disconnects) == 1


DrainMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30)
TestDrainAgainstModel = DrainMachine.TestCase


@pytest.mark.parametrize(
    ("count", "grace_seconds", "within_seconds"),
    [(1, 20, 0.5), (3, 20, 0.5), (3, 2, 0.5), (500, 20, 18), (500, 1, 0.5)],
)
def test_consumers_of_anybody_are_closed_one_after_another(
    count: int, grace_seconds: float, within_seconds: float
) -> None:
    """Few need not wait long, and many are spread; no time passes for this test."""

    async def stop() -> list[float]:
        server = FakeServer(grace_seconds=grace_seconds, count=count)
        began = server.loop.time()
        await drain(server)  # type: ignore[arg-type]
        return sorted(one.moments[0] - began for one in server.websockets)

    with VirtualTime() as time:
        moments = time.run(stop())
    assert len(set(moments)) == count
    assert moments[-1] <= within_seconds + TOLERANCE_SECONDS


def test_a_second_signal_closes_the_consumers_of_anybody_at_once() -> None:
    async def stop() -> list[float]:
        server = FakeServer(grace_seconds=20, count=100)
        server.loop.call_later(1, server.skips_grace.set)
        await drain(server)  # type: ignore[arg-type]
        assert all(one.calls[-2:] == ["end", "abort"] for one in server.websockets)
        return [one.moments[0] for one in server.websockets]

    with VirtualTime() as time:
        moments = time.run(stop())
    assert max(moments) - min(moments) < 1.5
