"""
Serve one WebSocket, from its handshake to its last byte.

The class replaces daphne's WebSocketProtocol without building on it or on Autobahn
(frames.py says why). daphne's Server uses the same few methods of it.
"""

import asyncio
from collections.abc import Awaitable, Callable

from connections import close_codes
from connections.asgi import TRANSPORT, Message
from connections.layers.prepared_message import PreparedMessage
from connections.server.transport import Transport
from connections.server.websocket import frames
from connections.server.websocket.deflate import Deflater, Inflater
from connections.server.websocket.keepalive import Keepalive
from connections.server.websocket.life_cycle import LifeCycle
from connections.server.websocket.reader import Inbound
from connections.server.websocket.response import Phase
from connections.server.websocket.send_buffer import SendBuffer

# A member of an enumeration costs a look-up in its class each time.
_CONNECTING, _OPEN = Phase.CONNECTING, Phase.OPEN

_NO_OPTIONS: Message = {}
"""What the extension for denials says of itself, in the scopes of all."""


class WebSocketProtocol(LifeCycle):
    """
    One client's WebSocket, as the ASGI application's receive and send.

    It is also the scope's TRANSPORT (connections.hub.hub.Transport). Nothing per
    message makes a task or a Deferred.
    """

    __slots__ = ()

    application_type = "websocket"

    # Used by the application and the node

    @property
    def unsent_bytes(self) -> int:
        return 0 if self._phase is Phase.CLOSED else self._buffer.unsent_bytes

    @property
    def has_left(self) -> bool:
        return self._is_gone or self._transport.has_left

    @property
    def rtt_seconds(self) -> float | None:
        return self._keepalive.rtt_seconds if self._keepalive else None

    def get_scope(self) -> Message:
        """Return the ASGI scope."""
        return {
            **self._opening.handshake.get_scope(),
            "root_path": self._server.root_path,
            "extensions": {"websocket.http.response": _NO_OPTIONS, TRANSPORT: self},
        }

    @property
    def receive(self) -> Callable[[], Awaitable[Message]]:
        """Return the next event, and the final event repeatedly."""
        return self._inbound.queue.get

    async def send(self, message: Message) -> None:
        """
        Take an event from the application.

        A message waits while more than send_high_water is unsent, and sometimes to
        let other tasks run. After the end events are ignored, because the
        application may not know of it yet.

        Raises:
            ValueError: the event is invalid, or not allowed in this state.
        """
        if message["type"] != "websocket.send":
            self._take_answer(message)
            return
        if self._phase is not _OPEN:
            if self._phase is _CONNECTING:
                raise ValueError("websocket.send before websocket.accept")
            # A handler that keeps sending must not block the loop.
            await asyncio.sleep(0)
            return
        payload = message.get("bytes")
        if (message.get("text") is None) == (payload is None):
            raise ValueError("websocket.send needs either text or bytes")
        if self._buffer.should_wait:
            await self._buffer.wait_for_room()
        if self._phase is not _OPEN:
            return
        if payload is None:
            text = message["text"]
            if self._deflater is not None and message.get("compress", True):
                self._write(self._deflater.build(frames.TEXT, text.encode()))
            else:
                self._write(frames.build_text(text))
        elif self._deflater is not None and message.get("compress", True):
            self._write(self._deflater.build(frames.BINARY, payload))
        else:
            self._write(frames.build_frame(frames.BINARY, payload))

    def send_prepared(self, message: PreparedMessage) -> bool:
        """
        Send a message to this client as well, without waiting and without a copy.

        Returns False, and sends nothing, while the WebSocket is not open or more than
        send_high_water is unsent.
        """
        if self._phase is not _OPEN or self._buffer.is_above_high_water:
            return False
        if self._deflater is None:
            frame = message.get_frame(None, frames.build_prepared)
        else:
            frame = self._deflater.build_prepared(message)
        self._write(frame, is_shared=True)
        return True

    def allow_message_size(self, size_bytes: int) -> None:
        """Let messages up to a size pass, before the first one is read."""
        self._inbound.allow_message_size(size_bytes)

    # Called by the server

    def begin(self, transport: Transport) -> None:
        """Take over the TCP connection of the handshake."""
        loop = asyncio.get_running_loop()
        self._transport = transport
        self._inbound = Inbound(self._config, transport, self, loop)
        self._buffer = SendBuffer(transport, self._config.buffers, loop, self)
        self._start_deadline(self._config.handshake.timeout_seconds, self.cut_off)
        self._inbound.queue.put({"type": "websocket.connect"})
        self._log_action("connecting")

    # Called by the transport

    def take(self, received: bytes) -> None:
        self._inbound.take(received)
        if self._inbound.held_bytes or self._is_counted:
            self._record_held()

    def on_drained(self) -> None:
        self._buffer.on_drained()
        if self._is_counted:
            self._record_held()

    # Called by the keepalive

    def send_ping(self, payload: bytes) -> None:
        self._buffer.follow_ping()
        self._write(frames.build_frame(frames.PING, payload))

    def has_moved(self, since: float) -> bool:
        return self._inbound.has_moved(since) or self._buffer.has_ping_moved()

    def record_round_trip(self, seconds: float) -> None:
        self._server.round_trips.observe(seconds)

    def give_up_dead(self) -> None:
        self.close_reason = self.close_reason or close_codes.DEAD
        self.abort()

    # Called by the reader

    def take_ping(self, payload: bytes) -> None:
        # A client that does not read pongs gets no more of them.
        if self._phase is Phase.OPEN and not self._buffer.is_above_high_water:
            self._write(frames.build_frame(frames.PONG, payload))

    def take_pong(self, payload: bytes) -> None:
        if self._keepalive is not None:
            self._keepalive.on_pong(payload)

    # The answer to the handshake

    def _take_answer(self, message: Message) -> None:
        kind = message["type"]
        if self._phase in (Phase.CLOSING, Phase.CLOSED):
            return
        if kind == "websocket.close":
            self.close(message.get("code") or 1000, message.get("reason") or "")
        elif self._phase is Phase.OPEN:
            raise ValueError(f"{kind} after websocket.accept")
        elif kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.http.response.start":
            self._opening.begin_denial(message)
        elif kind == "websocket.http.response.body":
            self._deny(message)
        else:
            raise ValueError(f"unknown event {kind}")

    def _accept(self, message: Message) -> None:
        compression = self._config.compression
        agreement = None
        if message.get("compression", compression.enabled):
            agreement = self._opening.negotiate(compression)
        acceptance = self._opening.accept(message, agreement)
        del self._opening
        self._stop_deadline()
        self._server.admission.end_handshake(self)
        self._server.admission.open_count += 1
        self._move(Phase.OPEN)
        self._buffer.write(acceptance)
        self._keepalive = Keepalive(
            interval_seconds=self._config.ping_interval_seconds,
            timeout_seconds=self._config.ping_timeout_seconds,
            timers=self._timers,
            owner=self,
        )
        self._log_action("connected")
        if agreement is None:
            self._inbound.open(None)
            return
        counts = self._server.compression
        self._deflater = Deflater(agreement, compression, counts)
        most, ratio = self._inbound.max_message_size, compression.max_ratio
        self._inbound.open(Inflater(most, ratio))

    def _deny(self, message: Message) -> None:
        response = self._opening.deny(message)
        if message.get("more_body"):
            self._buffer.write(response)
        else:
            self._finish_refusal(response)
