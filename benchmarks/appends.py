"""
Generate load on sessions: messages at full speed, or at a steady rate.

Runs in its own process, like connections.capacity.load.generator. It checks each
ack: offsets of a session must have no holes and no duplicates.
"""

import itertools
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from connections.capacity.load.client import Client
from connections.capacity.load.frames import PING, PONG, TEXT, build_frame, split_frames
from connections.capacity.load.generator import Answer, Steps, main, summarise
from connections.capacity.load.sockets import Clients

PAYLOAD = {"text": "a message of about a hundred bytes, as people write: é👍🏽"}
_LATE_SECONDS = 60
_NAME = b'{"session":"'
_SESSION_CHARACTERS = 32


class Appender:
    """A session, on a connection of its own or on one of many, and its messages."""

    def __init__(
        self,
        client: Client,
        times: list[float],
        *,
        is_answered: bool = False,
        shared: "Shared | None" = None,
    ) -> None:
        self.client = client
        self.hello: dict[str, Any] = {}
        self.entries = 0
        self.answers = 0
        # An answer takes the offset after that of its message.
        self._step = 2 if is_answered else 1
        self.last_offset = 1 - self._step
        self.is_continuous = False
        self.in_flight: dict[int, float] = {}
        self._times = times
        self._prefix = os.urandom(8).hex()
        self._numbers = itertools.count(1)
        self._prepared: list[tuple[int, bytes]] = []
        self._is_named = shared is not None
        if shared is None:
            receive_frames(client, self.take)

    def prepare(self, count: int, *, is_ping: bool = False) -> None:
        """Build messages or pings before the clock starts."""
        self._prepared = [self._build(is_ping) for _ in range(count)][::-1]

    def send(self) -> None:
        """Send the next message, and time its answer."""
        number, frame = self._prepared.pop() if self._prepared else self._build(False)
        self.in_flight[number] = time.monotonic()
        self.client.socket.send(frame)

    def take(self, payload: bytes) -> None:
        """Handle a message of the session, without its name."""
        if payload.startswith(b'{"type":"entry"'):
            self.entries += 1
            is_answer = self._step > 1 and b'"from":"server"' in payload
            if is_answer and b'"state":"streaming"' not in payload:
                self._end_answer()
        elif not payload.startswith(b'{"type": "delta"'):
            self._receive_message(json.loads(payload))

    def _build(self, is_ping: bool) -> tuple[int, bytes]:
        number = next(self._numbers)
        message: dict[str, Any] = {"type": "ping", "t": number}
        if not is_ping:
            message_id = f"{self._prefix}-{number}"
            message = {"type": "message", "id": message_id, "data": PAYLOAD}
            if self._is_named:
                message["session"] = self.hello["session"]
        return number, build_frame(TEXT, json.dumps(message).encode())

    def _receive_message(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "ack":
            if message["offset"] != self.last_offset + self._step:
                raise ConnectionError(f"after {self.last_offset} came {message}")
            self.last_offset += self._step
            self._settle(int(message["id"].rpartition("-")[2]))
        elif kind == "pong":
            self._settle(message["t"])
        elif kind == "state":
            self._end_answer()
        elif kind == "hello":
            self.hello = message
        else:
            raise ConnectionError(str(message))

    def _settle(self, number: int) -> None:
        self._times.append(time.monotonic() - self.in_flight.pop(number))
        if self.is_continuous and self._step == 1:
            self.send()

    def _end_answer(self) -> None:
        """Send the next message once an answer has ended."""
        self.answers += 1
        if self.is_continuous:
            self.send()


class Shared:
    """One connection with the sessions of many appenders."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._sessions: dict[bytes, Appender] = {}
        self._asking: Appender | None = None
        receive_frames(client, self._take)

    def attach(self, appender: Appender) -> None:
        """Ask for a new session of an appender, which then gets its hello."""
        self._asking = appender
        text = b'{"type":"attach","session":"new","id":"a"}'
        self.client.socket.send(build_frame(TEXT, text))

    def _take(self, payload: bytes) -> None:
        """Hand a message on to its session."""
        if payload.startswith(_NAME):
            start = len(_NAME)
            session = payload[start : start + _SESSION_CHARACTERS]
            rest = payload[start + _SESSION_CHARACTERS + 2 :]
            self._sessions[session].take(b"{" + rest)
        elif b'"id": "a"' in payload and self._asking is not None:
            self._asking.take(payload)
            session = self._asking.hello["session"].encode()
            self._sessions[session] = self._asking


def receive_frames(client: Client, take: Callable[[bytes], None]) -> None:
    """Hand the messages of a connection on, with those that have arrived."""

    def receive(client: Client, data: bytes) -> None:
        frames, client.buffer = split_frames(client.buffer + data)
        for raw, payload in frames:
            if raw[0] == PING:
                client.socket.send(build_frame(PONG, payload))
            else:
                take(payload)

    client.on_data = receive
    receive(client, b"")


class AppendSteps(Steps):
    """The steps of the process, in addition to those of every generator."""

    def __init__(self, host: str, port: int, dialect: str, path: str) -> None:
        super().__init__(host, port, dialect, path)
        # A single address is a single client, which owns all sessions.
        self.clients = Clients(host, port, addresses=1)
        self._headers = [f"Origin: http://{host}:{port}\r\n"]
        self._appenders: list[Appender] = []
        self._times: list[float] = []

    def begin(self, count: int, is_answered: bool = False) -> Answer:
        """Open `count` sessions, each on its own connection."""
        self._appenders = [
            self._open("new/", is_answered=is_answered) for _ in range(count)
        ]
        return {"open": count}

    def begin_shared(self, count: int) -> Answer:
        """Open `count` sessions on one more connection, for the steps that follow."""
        protocol = "Sec-WebSocket-Protocol: orchestra.v2\r\n"
        shared = Shared(self._connect("many/", protocol))
        self._appenders = []
        for _ in range(count):
            appender = Appender(shared.client, self._times, shared=shared)
            shared.attach(appender)
            self._wait_greeted(appender)
            self._appenders.append(appender)
        return {"open": count}

    def go_fast(self, seconds: float, window: int, expected: int) -> Answer:
        """Keep `window` messages in flight on each connection, with their answers."""
        for appender in self._appenders:
            appender.prepare(expected // len(self._appenders) + window)
            appender.is_continuous = True
        started, cpu = self._start_clock()
        for appender in self._appenders:
            for _ in range(window):
                appender.send()
        while time.monotonic() - started < seconds:
            self.clients.poll(0.1)
        answer = self._summarise(started, cpu)
        for appender in self._appenders:
            appender.is_continuous = False
        self._wait_settled(self._appenders)
        return answer

    def go_steadily(
        self, seconds: float, per_second: float, is_ping: bool = False
    ) -> Answer:
        """Send on the connections in rotation, at a steady rate."""
        count = int(seconds * per_second)
        for appender in self._appenders:
            appender.prepare(count // len(self._appenders) + 1, is_ping=is_ping)
        started, cpu = self._start_clock()
        for number in range(count):
            due_at = started + number / per_second
            while (wait_seconds := due_at - time.monotonic()) > 0:
                self.clients.poll(wait_seconds)
            self._appenders[number % len(self._appenders)].send()
        self._wait_settled(self._appenders)
        return self._summarise(started, cpu)

    def resume(self, entries: int, times: int) -> Answer:
        """Append entries to one session, and resume it repeatedly."""
        appender = self._open("new/")
        for _ in range(entries):
            appender.send()
            self._wait_settled([appender])
        path = f"{appender.hello['session']}/?epoch={appender.hello['epoch']}&offset=0"
        taken = []
        for _ in range(times):
            started = time.monotonic()
            again = self._open(path)
            while again.entries < entries:
                self.clients.poll(0.1)
            taken.append(time.monotonic() - started)
            self.clients.drop(again.client)
        return summarise(taken)

    def _open(self, path: str, *, is_answered: bool = False) -> Appender:
        client = self._connect(path)
        appender = Appender(client, self._times, is_answered=is_answered)
        self._wait_greeted(appender)
        return appender

    def _connect(self, path: str, more_headers: str = "") -> Client:
        (client,), _ = self.clients.open(
            1,
            concurrency=1,
            dialect=self._dialect,
            headers=[one + more_headers for one in self._headers],
            path=f"/ws/sessions/{path}",
        )
        return client

    def _wait_greeted(self, appender: Appender) -> None:
        while not appender.hello:
            self.clients.poll(0.1)

    def _start_clock(self) -> tuple[float, float]:
        self._times.clear()
        return time.monotonic(), time.process_time()

    def _wait_settled(self, appenders: Sequence[Appender]) -> None:
        deadline = time.monotonic() + _LATE_SECONDS
        while any(appender.in_flight for appender in appenders):
            self.clients.poll(0.1)
            if time.monotonic() > deadline:
                raise TimeoutError("an ack is missing")

    def _summarise(self, started: float, cpu: float) -> Answer:
        count = len(self._times)
        return {
            "count": count,
            "per_second": count / (time.monotonic() - started),
            "own_cpu_us": 1e6 * (time.process_time() - cpu) / max(1, count),
            **summarise(list(self._times)),
        }


if __name__ == "__main__":
    main(AppendSteps)
