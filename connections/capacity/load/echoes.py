"""Exchange messages with a server, and record the round trips."""

import time

from connections.capacity.load.client import Client, answer_pings


class Echoes:
    """Counts and times of an exchange of messages."""

    def __init__(self) -> None:
        self.round_trips = 0
        self.seconds = self.own_cpu_seconds = 0.0
        self.times: list[float] = []
        self.is_over = False
        self.settled = 0

    def take(self, client: Client, data: bytes) -> None:
        """Check a reply and send the next message."""
        if data != client.reply and client.reply:
            data = client.buffer + data
            client.buffer = b""
            if data != client.reply:
                self._take_irregular(client, data)
                return
        if self.is_over:
            self.settled += 1
            return
        self.round_trips += 1
        now = time.monotonic()
        self.times.append(now - client.sent_at)
        client.sent_at = now
        client.socket.send(client.frame)

    def _take_irregular(self, client: Client, data: bytes) -> None:
        """Handle a partial reply, or a reply mixed with pings."""
        if client.reply.startswith(data):
            client.buffer = data
            return
        rest = answer_pings(client, data)
        if rest == data:
            raise ConnectionError(f"an unexpected reply: {data[:80]!r}")
        if rest:
            self.take(client, rest)
