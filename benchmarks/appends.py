"""
Generate load on sessions: messages at full speed, or at a steady rate.

Runs in its own process, like connections.capacity.load.generator. It checks each
ack: offsets of a session must have no holes and no duplicates.
"""

import itertools
import json
import os
import time
from collections.abc import Sequence
from typing import Any

from connections.capacity.load.client import Client
from connections.capacity.load.frames import PING, PONG, TEXT, build_frame, split_frames
from connections.capacity.load.generator import Answer, Steps, main, summarise
from connections.capacity.load.sockets import Clients

PAYLOAD = {"text": "a message of about a hundred bytes, as people write: é👍🏽"}
_LATE_SECONDS = 60


class Appender:
    """One connection to its own session, with its messages in flight."""

    def __init__(
        self, client: Client, times: list[float], *, is_answered: bool = False
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
        client.on_data = self.receive
        self.receive(client, b"")

    def prepare(self, count: int, *, is_ping: bool = False) -> None:
        """Build messages or pings before the clock starts."""
        self._prepared = [self._build(is_ping) for _ in range(count)][::-1]

    def send(self) -> None:
        """Send the next message, and time its answer."""
        number, frame = self._prepared.pop() if self._prepared else self._build(False)
        self.in_flight[number] = time.monotonic()
        self.client.socket.send(frame)

    def receive(self, client: Client, data: bytes) -> None:
        """Handle received bytes."""
        frames, client.buffer = split_frames(client.buffer + data)
        for raw, payload in frames:
            if raw[0] == PING:
                client.socket.send(build_frame(PONG, payload))
            elif payload.startswith(b'{"type":"entry"'):
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
        (client,), _ = self.clients.open(
            1,
            concurrency=1,
            dialect=self._dialect,
            headers=self._headers,
            path=f"/ws/sessions/{path}",
        )
        appender = Appender(client, self._times, is_answered=is_answered)
        while not appender.hello:
            self.clients.poll(0.1)
        return appender

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
