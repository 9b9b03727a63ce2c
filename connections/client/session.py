"""Follow one session: every entry once and in order, across reconnects."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlencode

from websockets.exceptions import ConnectionClosed

from connections.client.cancellations import Cancellations
from connections.client.connect import OpenSocket, Socket, open_connection
from connections.client.events import (
    Attached,
    EntryArrived,
    EntryCompleted,
    EntryGrew,
    ErrorReceived,
    Event,
    NoticeReceived,
    State,
    StateChanged,
)
from connections.client.heartbeat import Heartbeat
from connections.client.listeners import Listeners
from connections.client.outbox import (
    TOO_BIG,
    Ack,
    Item,
    Outbox,
    RequestFailed,
    make_closed,
)
from connections.client.presence import SessionPresence
from connections.client.reconnect import Ended, Random
from connections.client.reconnecting_socket import OPENING_SECONDS, ReconnectingSocket
from connections.client.requests import Requests
from connections.client.tokens import GetToken, Renewal, Sleep, Token, ask_token
from connections.client.transcript import Entry, Transcript
from connections.client.urls import SessionsUrl

_SUBPROTOCOLS = ("orchestra.v2", "orchestra.v1")  # Older servers know the second.
_BEHIND_SECONDS = 6.0
"""A server fills a hole within five seconds by itself."""
_TEMPORARY = ("rate_limited", "unavailable")


class SessionClient(Requests):
    """
    Sends, receives and reconnects by the session protocol.

    Use it with `async with`. It stays until it is closed. A final end fails the
    waiting messages; connect() begins anew.
    """

    def __init__(
        self,
        url: str,
        *,
        session: str = "new",
        presence: bool = False,
        token: Token = None,
        get_token: GetToken | None = None,
        queue_limit: int = 100,
        entry_limit: int = 1000,
        ack_timeout_seconds: float = 15,
        heartbeat_timeout_seconds: float = 5,
        get_traceparent: Callable[[], str] = str,
        rng: Random = random.random,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        open_socket: OpenSocket = open_connection,
    ) -> None:
        """
        Prepare a client; `url` is that of all sessions (wss://host/ws/sessions/).

        A query of the URL is sent with each connection. `get_token` is called at
        each attempt and has ten seconds; `token` is a constant token. Each message
        names the trace that `get_traceparent` returns, unless that is empty.

        Raises:
            ValueError: the URL is not ws://host/path or wss://host/path.
        """
        self.session = session
        """The session's id, or `new` before the first hello."""
        self.hello: dict[str, Any] = {}
        """The server's last hello: limits, heartbeat, connection."""
        self._url = SessionsUrl(url)
        self._can_renew = get_token is not None
        self._get_token = get_token or (lambda is_expired: token)
        self._ack_timeout_seconds = ack_timeout_seconds
        self._sleep = sleep
        self._clock = clock
        self._transcript = Transcript(entry_limit)
        self._outbox = Outbox(queue_limit, get_traceparent)
        self._listeners = Listeners()
        self._emit = self._listeners.emit
        self.presence = SessionPresence(self._say, self._emit, sleep=sleep)
        """Who is present in the session, and types; empty unless asked for."""
        self._asks_presence = presence
        self._cancellations = Cancellations(self._send_cancel, sleep=sleep)
        self._in_flight: Item | None = None
        self._retry_seconds: float | None = None
        self._heartbeat = Heartbeat(
            timeout_seconds=heartbeat_timeout_seconds,
            sleep=sleep,
            ping=self._ping,
            drop=self.drop,
        )
        self._behind = (0, 0, 0.0)
        self._renewal = Renewal(
            self.refresh, answer_seconds=ack_timeout_seconds, rng=rng, sleep=sleep
        )
        self._socket = ReconnectingSocket(
            make_url=self._make_url,
            subprotocols=_SUBPROTOCOLS,
            get_token=self._get_token,
            attend=self._attend,
            on_change=self._change_state,
            rng=rng,
            sleep=sleep,
            clock=clock,
            open_socket=open_socket,
        )

    async def __aenter__(self) -> "SessionClient":
        self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def state(self) -> State:
        """The state of the connection."""
        return self._socket.state

    @property
    def ended(self) -> Ended | None:
        """The end of the last connection."""
        return self._socket.ended

    @property
    def entries(self) -> list[Entry]:
        """The received entries of the session, in order."""
        return self._transcript.entries

    @property
    def pending(self) -> int:
        """How many messages are not yet settled."""
        return len(self._outbox)

    def connect(self) -> None:
        """Connect now, also after a final end."""
        self._socket.connect()

    def drop(self) -> None:
        """Drop the connection as if the network had failed, and reconnect."""
        self._socket.drop()

    async def close(self) -> None:
        """End the connection; unsettled messages fail with `closed`."""
        await self._socket.close()
        self._outbox.fail_all(RequestFailed("closed", "the client was closed"))
        self._emit(None)

    async def _ask(self, content: dict[str, Any]) -> Ack:
        ended = self.ended
        if self.state is State.CLOSED and ended is not None and ended.is_final:
            raise make_closed(ended)
        limits = self.hello.get("limits", {})
        item = self._outbox.add(content, limits.get("max_message_size"))
        self._socket.wake()
        try:
            return await item.done
        finally:
            self._outbox.forget(item.message_id)

    async def cancel(self, offset: int) -> None:
        """Stop a stream; without a connection, as soon as there is one again."""
        await self._cancellations.add(offset)

    async def delete(self) -> None:
        """Delete the session on an open connection, which then closes with 4004."""
        await self._say({"type": "delete"})

    async def refresh(self) -> None:
        """
        Send the server a new token on the open connection.

        Raises:
            UnauthorizedError: `get_token` has none.
            TimeoutError: it took more than ten seconds.
        """
        token = await ask_token(self._get_token, True)
        if token:
            await self._say({"type": "refresh", "token": token})

    def events(self) -> AsyncIterator[Event]:
        """
        Return the events from this call on, until the client is closed.

        Raises, from the iterator:
            RequestFailed: events_missed; events were not read for too long.
        """
        return self._listeners.listen()

    def _make_url(self) -> str:
        position = [self._transcript.position]
        if self.hello:
            position.append(urlencode({"replaces": self.hello["connection"]}))
        if self._asks_presence:
            position.append("presence=1")
        return self._url.make(self.session, *position)

    async def _attend(self, socket: Socket) -> None:
        try:
            await self._converse(socket)
        finally:
            self._renewal.stop()

    async def _converse(self, socket: Socket) -> None:
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(OPENING_SECONDS):
                while self.state is not State.OPEN:
                    self._receive(json.loads(await socket.recv()))
            every_seconds = self.hello["heartbeat_seconds"]
            async with asyncio.TaskGroup() as tasks:
                aside = [
                    tasks.create_task(self._send_queue()),
                    tasks.create_task(self._heartbeat.beat(every_seconds)),
                    tasks.create_task(self._cancellations.run()),
                    tasks.create_task(self.presence.run()),
                ]
                with contextlib.suppress(ConnectionClosed):
                    async for text in socket:
                        self._receive(json.loads(text))
                for task in aside:
                    task.cancel()

    async def _send_queue(self) -> None:
        """
        Send the unsettled messages, one at a time, decisions first.

        The order holds otherwise, even if the server refuses a message for the moment.
        """
        with contextlib.suppress(ConnectionClosed):
            while True:
                item = self._in_flight = await self._outbox.next()
                item.answered.clear()
                self._retry_seconds = None
                await self._socket.send(item.text)
                try:
                    async with asyncio.timeout(self._ack_timeout_seconds):
                        await item.answered.wait()
                except TimeoutError:
                    self._outbox.on_timeout(item)
                if self._retry_seconds is not None:
                    await self._sleep(self._retry_seconds)

    async def _send_cancel(self, offset: int) -> None:
        with contextlib.suppress(ConnectionClosed):
            epoch = self._transcript.epoch
            await self._say({"type": "cancel", "offset": offset, "epoch": epoch})

    async def _ping(self) -> None:
        await self._say({"type": "ping", "t": round(self._clock() * 1000)})

    async def _say(self, message: dict[str, Any]) -> None:
        await self._socket.send(json.dumps(message))

    def _change_state(self, state: State, delay_seconds: float | None) -> None:
        ended = self.ended
        if state is not State.OPEN and ended is not None:
            if ended.code in TOO_BIG and self._in_flight is not None:
                error = RequestFailed("message_too_big", "never to be sent again")
                self._outbox.fail(self._in_flight.message_id, error)
            self._in_flight = None
            if state is State.CLOSED and ended.is_final:
                self._outbox.fail_all(make_closed(ended))
        self._emit(StateChanged(state=state, ended=ended, delay_seconds=delay_seconds))

    def _receive(self, message: dict[str, Any]) -> None:
        self._heartbeat.hear()
        take = getattr(self, f"_take_{message['type']}", self.presence.take)
        take(message)

    def _take_hello(self, hello: dict[str, Any]) -> None:
        if self._transcript.begin(hello):
            self._cancellations.clear()
        self.hello = hello
        self.session = hello["session"]
        self._behind = (0, 0, 0.0)
        self._socket.mark_ready()
        self.presence.begin(hello)
        gap = hello["gap"]
        self._emit(
            Attached(
                outcome=hello["outcome"],
                gap=(gap[0], gap[1]) if gap else None,
                session=self.session,
                offset=hello["offset"],
            )
        )
        for entry in self._transcript.lost:
            self._cancellations.discard(entry.offset)
            self._emit(EntryCompleted(entry=entry))

    def _take_bye(self, bye: dict[str, Any]) -> None:
        self._socket.on_bye(bye)

    def _take_entry(self, message: dict[str, Any]) -> None:
        entry = self._transcript.put(message)
        if entry is None:
            self.drop()
            return
        if not entry.is_streaming:
            self._cancellations.discard(entry.offset)
        is_replay = entry.offset <= self.hello["offset"]
        self._emit(EntryArrived(entry=entry, is_replay=is_replay))

    def _take_delta(self, message: dict[str, Any]) -> None:
        entry = self._transcript.extend(message)
        if entry is None:
            # A piece is missing: after a reconnect the entry is sent whole.
            self.drop()
        else:
            text, changes = message.get("text", ""), message.get("parts", ())
            self._emit(EntryGrew(entry=entry, text=text, changes=tuple(changes)))

    def _take_state(self, message: dict[str, Any]) -> None:
        self._cancellations.discard(message["offset"])
        entry = self._transcript.settle(message)
        if entry is not None:
            self._emit(EntryCompleted(entry=entry))

    def _take_ack(self, message: dict[str, Any]) -> None:
        self._transcript.confirm(message)
        self._outbox.acknowledge(message["id"], message["offset"])

    def _take_pong(self, message: dict[str, Any]) -> None:
        offset, last, since = self._behind
        if offset <= self._transcript.last or last < self._transcript.last:
            # A long replay moves the transcript; one that stands still lacks an entry.
            last = self._transcript.last
            self._behind = (message["offset"], last, self._clock())
        elif self._clock() - since >= _BEHIND_SECONDS:
            self.drop()

    def _take_expiring(self, message: dict[str, Any]) -> None:
        if self._can_renew:
            self._renewal.start()

    def _take_refreshed(self, message: dict[str, Any]) -> None:
        self._renewal.complete()

    def _take_notice(self, message: dict[str, Any]) -> None:
        self._emit(NoticeReceived(text=str(message["text"]), at=message["at"]))

    def _take_error(self, message: dict[str, Any]) -> None:
        code, text, ref = message["code"], message["message"], message.get("ref")
        if (offset := message.get("offset")) is not None:
            self._take_cancel_error(offset, message)
        elif code in _TEMPORARY:
            self._retry_seconds = _read_retry_seconds(message)
            if self._in_flight is not None:
                self._in_flight.answered.set()
        elif not self._outbox.fail(message.get("id"), RequestFailed(code, text, ref)):
            self._emit(ErrorReceived(code=code, message=text, ref=ref))

    def _take_cancel_error(self, offset: int, message: dict[str, Any]) -> None:
        if message["code"] in _TEMPORARY:
            self._cancellations.retry(_read_retry_seconds(message))
        else:
            self._cancellations.discard(offset)


def _read_retry_seconds(error: dict[str, Any]) -> float:
    return max(0.2, error.get("retry_after_seconds") or 1)
