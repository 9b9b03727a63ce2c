"""
The load generator of sessions: messages said as fast as it goes, or at a steady rate.

A process of its own, as connections.capacity.load.generator. Each ack is looked at: no
offset of a session may be left out, none come twice.
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


class Talk:
    """One connection to a session of its own, and what was said on it."""

    def __init__(self, client: Client, times: list[float]) -> None:
        self.client = client
        self.hello: dict[str, Any] = {}
        self.entries = 0
        self.last_offset = 0
        self.goes_on = False
        self.under_way: dict[int, float] = {}
        self._times = times
        self._prefix = os.urandom(8).hex()
        self._numbers = itertools.count(1)
        self._prepared: list[tuple[int, bytes]] = []
        client.on_data = self.take
        self.take(client, b"")

    def prepare(self, count: int, *, is_ping: bool = False) -> None:
        """Build messages before the clock starts: to be recorded, or pings."""
        self._prepared = [self._build(is_ping) for _ in range(count)][::-1]

    def say(self) -> None:
        """Send the next message and take the time until it is answered."""
        number, frame = self._prepared.pop() if self._prepared else self._build(False)
        self.under_way[number] = time.monotonic()
        self.client.socket.send(frame)

    def take(self, client: Client, data: bytes) -> None:
        """Take what the server sends."""
        frames, client.buffer = split_frames(client.buffer + data)
        for raw, payload in frames:
            if raw[0] == PING:
                client.socket.send(build_frame(PONG, payload))
            elif payload.startswith(b'{"type":"entry"'):
                self.entries += 1
            else:
                self._take_message(json.loads(payload))

    def _build(self, is_ping: bool) -> tuple[int, bytes]:
        number = next(self._numbers)
        message: dict[str, Any] = {"type": "ping", "t": number}
        if not is_ping:
            message_id = f"{self._prefix}-{number}"
            message = {"type": "message", "id": message_id, "data": PAYLOAD}
        return number, build_frame(TEXT, json.dumps(message).encode())

    def _take_message(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "ack":
            if message["offset"] != self.last_offset + 1:
                raise ConnectionError(f"after {self.last_offset} came {message}")
            self.last_offset += 1
            self._settle(int(message["id"].rpartition("-")[2]))
        elif kind == "pong":
            self._settle(message["t"])
        elif kind == "hello":
            self.hello = message
        else:
            raise ConnectionError(str(message))

    def _settle(self, number: int) -> None:
        self._times.append(time.monotonic() - self.under_way.pop(number))
        if self.goes_on:
            self.say()


class AppendSteps(Steps):
    """What the process can do beside what every generator can."""

    def __init__(self, host: str, port: int, dialect: str, path: str) -> None:
        super().__init__(host, port, dialect, path)
        # Of one address, and so of one client, to whom all sessions belong.
        self.clients = Clients(host, port, addresses=1)
        self._headers = [f"Origin: http://{host}:{port}\r\n"]
        self._talks: list[Talk] = []
        self._times: list[float] = []

    def begin(self, count: int) -> Answer:
        """Begin so many sessions, each on a connection of its own."""
        self._talks = [self._open("new/") for _ in range(count)]
        return {"open": count}

    def go_fast(self, seconds: float, window: int, expected: int) -> Answer:
        """Keep so many messages under way on each connection."""
        for talk in self._talks:
            talk.prepare(expected // len(self._talks) + window)
            talk.goes_on = True
        started, cpu = self._start_clock()
        for talk in self._talks:
            for _ in range(window):
                talk.say()
        while time.monotonic() - started < seconds:
            self.clients.poll(0.1)
        answer = self._summarise(started, cpu)
        for talk in self._talks:
            talk.goes_on = False
        self._wait_settled(self._talks)
        return answer

    def go_steadily(
        self, seconds: float, per_second: float, is_ping: bool = False
    ) -> Answer:
        """Have the connections speak in turn, at a steady rate."""
        count = int(seconds * per_second)
        for talk in self._talks:
            talk.prepare(count // len(self._talks) + 1, is_ping=is_ping)
        started, cpu = self._start_clock()
        for number in range(count):
            due_at = started + number / per_second
            while (wait_seconds := due_at - time.monotonic()) > 0:
                self.clients.poll(wait_seconds)
            self._talks[number % len(self._talks)].say()
        self._wait_settled(self._talks)
        return self._summarise(started, cpu)

    def resume(self, entries: int, times: int) -> Answer:
        """Say so much in one session, and come back to it again and again."""
        talk = self._open("new/")
        for _ in range(entries):
            talk.say()
            self._wait_settled([talk])
        path = f"{talk.hello['session']}/?epoch={talk.hello['epoch']}&offset=0"
        taken = []
        for _ in range(times):
            started = time.monotonic()
            again = self._open(path)
            while again.entries < entries:
                self.clients.poll(0.1)
            taken.append(time.monotonic() - started)
            self.clients.drop(again.client)
        return summarise(taken)

    def _open(self, path: str) -> Talk:
        (client,), _ = self.clients.open(
            1,
            concurrency=1,
            dialect=self._dialect,
            headers=self._headers,
            path=f"/ws/sessions/{path}",
        )
        talk = Talk(client, self._times)
        while not talk.hello:
            self.clients.poll(0.1)
        return talk

    def _start_clock(self) -> tuple[float, float]:
        self._times.clear()
        return time.monotonic(), time.process_time()

    def _wait_settled(self, talks: Sequence[Talk]) -> None:
        deadline = time.monotonic() + _LATE_SECONDS
        while any(talk.under_way for talk in talks):
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
