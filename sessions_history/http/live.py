"""
Read a session live over plain HTTP: by long polls, or by server-sent events.

A client that names a subprotocol gets the messages of its socket, as the data of
events. Any other client reads finished entries by the Durable Streams protocol,
sections 5.7 and 5.8.
"""

import asyncio
import json
import random
import time
from collections.abc import Awaitable
from typing import Any, cast
from urllib.parse import parse_qs

from django.urls import URLPattern, path

from connections import close_codes
from connections.api.errors import ApiError
from connections.asgi import CARRIER, Application, Message, Receive, Send, get_extension
from connections.consumers import LimitedJsonConsumer
from connections.exceptions import DatabaseUnavailable, Refused
from connections.presence.rooms import make_gap
from sessions_history.claims import MANY, NEW, asks_presence
from sessions_history.consumers import SessionConsumer
from sessions_history.exceptions import SessionNotFound
from sessions_history.http.calls import rates
from sessions_history.http.offsets import StreamOffset, read_offset
from sessions_history.http.stream_reads import OffsetGone, StreamPage, read_page
from sessions_history.log import SessionLog, get_log
from sessions_history.presence import SessionPresence
from sessions_history.reads import Claim
from sessions_history.session_ids import SESSION_ID, find_named
from sessions_history.subscribers import Subscriber

POLL_SECONDS = 20
"""How long a long poll waits for an entry."""

_MOST_EVENT_BYTES = 2000
"""Of the header with an event; in place of a larger one there is a gap."""

_CURSOR_SECONDS = 20
_CURSORS_BEGIN = 1_728_432_000
"""The Unix time of 9 October 2024, from which cursors count (section 10.1)."""
_MOST_JITTER = 180


class LiveReader(LimitedJsonConsumer):
    """One client that reads the finished entries of a session."""

    _log: SessionLog
    _reader: "_Reader | None" = None
    _presence: SessionPresence | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._presence is not None:
                self._presence.close()
            if self._reader is not None:
                self._log.attached.detach(self._reader)

    async def connect(self) -> None:
        query = parse_qs(
            self.scope["query_string"].decode("latin-1"), keep_blank_values=True
        )
        named: str = self.scope["url_route"]["kwargs"]["session_id"]
        session_id = find_named(self.connection.client_id, named)
        if not SESSION_ID.fullmatch(session_id):
            raise Refused(close_codes.NOT_FOUND)
        take_request(self)
        try:
            if self.scope["subprotocols"]:
                raise ValueError("protocol needs live=sse: a long poll is one answer")
            offset = read_offset(query.get("offset", []))
            if offset is None:
                raise ValueError("a live request needs an offset")
            is_present = asks_presence(self.scope)
            await self._attach(session_id, offset, query.get("cursor", [""])[0])
            if is_present:
                self._join(session_id)
        except ValueError as exc:
            await self._answer(400, "invalid_parameter", str(exc))
        except OffsetGone as exc:
            await self._answer(410, "gone", str(exc))
        except SessionNotFound as exc:
            raise Refused(close_codes.NOT_FOUND) from exc
        except DatabaseUnavailable as exc:
            raise Refused(close_codes.UNAVAILABLE) from exc

    async def _attach(
        self, session_id: str, offset: StreamOffset | str, cursor: str
    ) -> None:
        node = self.scope["node"]
        self._log = get_log(node)
        claim = Claim()
        if isinstance(offset, StreamOffset):
            claim = Claim(epoch=offset.epoch, offset=offset.after)
        attached = await self._log.attached.attach(
            session_id,
            claim,
            connection=self.connection.live,
            send=self._send_nothing,
            subscriber_class=_Reader,
        )
        reader = attached.subscriber
        if not isinstance(reader, _Reader):
            raise TypeError("a live reader has a subscriber of its own")
        self._reader = reader
        position = attached.position
        page = None
        if not position.is_provisional:
            page = await node.database.read(read_page, session_id, offset)
            after = page.next_offset.after - len(page.entries)
        elif isinstance(offset, StreamOffset) and offset.epoch != position.epoch:
            raise OffsetGone
        else:
            after = 0
        is_poll = get_extension(self.scope, CARRIER) == "long_poll"
        await self.accept()
        poll_seconds = POLL_SECONDS if is_poll else None
        reader.begin(self, cursor, page, poll_seconds=poll_seconds)
        await reader.start(after)

    def _join(self, session_id: str) -> None:
        """Make the client present, and send it who joins, leaves and types."""
        is_poll = get_extension(self.scope, CARRIER) == "long_poll"
        self._presence = SessionPresence(
            self._log.typing,
            session_id=session_id,
            connection=self.connection.live,
            node=self.scope["node"],
            send=self._end_poll if is_poll else self.connection.send,
            # It would end each poll at once.
            is_listed=not is_poll,
        )
        self._presence.start(is_own_room=True)

    async def _end_poll(self, text: str) -> None:
        """Answer a long poll with an event, which is a header beside its entries."""
        if len(text) > _MOST_EVENT_BYTES and self._presence is not None:
            text = json.dumps(make_gap(self._presence.room).message)
        await self.base_send(
            {
                "type": "websocket.send",
                "text": "",
                "event": "presence",
                "headers": [(b"session-event", text.encode())],
            }
        )
        if self._reader is not None:
            self._reader.give_nothing()

    async def send_page(self, page: StreamPage, cursor: str) -> None:
        """Send the data of entries, if there are any, and the control event."""
        if page.entries:
            await self.base_send(
                {"type": "websocket.send", "text": page.content, "event": "data"}
            )
        control: Message = {
            "streamNextOffset": str(page.next_offset),
            "streamCursor": cursor,
        }
        headers = [
            (b"stream-next-offset", str(page.next_offset).encode()),
            (b"stream-cursor", cursor.encode()),
        ]
        if page.is_up_to_date:
            control |= {"upToDate": True}
            headers.append((b"stream-up-to-date", b"true"))
        await self.base_send(
            {
                "type": "websocket.send",
                "text": json.dumps(control),
                "event": "control",
                "headers": headers,
            }
        )

    async def _answer(self, status: int, code: str, message: str) -> None:
        """Answer without a connection."""
        content = {"error": {"code": code, "message": f"{message.rstrip('.')}."}}
        kind = "websocket.http.response"
        headers = [(b"content-type", b"application/json")]
        await self.base_send(
            {"type": f"{kind}.start", "status": status, "headers": headers}
        )
        await self.base_send(
            {"type": f"{kind}.body", "body": json.dumps(content).encode()}
        )

    async def _send_nothing(self, text: str) -> None:
        """Messages of sockets are not sent."""


class _Reader(Subscriber):
    """Sends one live reader the finished entries that it does not have yet."""

    _consumer: LiveReader
    _cursor = ""
    _page: StreamPage | None = None
    """The first page, which was read before the accept."""

    _is_poll = False
    _is_over = False
    _has_control = False
    _timer: asyncio.TimerHandle | None = None

    def begin(
        self,
        consumer: LiveReader,
        cursor: str,
        page: StreamPage | None,
        *,
        poll_seconds: float | None,
    ) -> None:
        """Set what is sent to: SSE, or one response within so many seconds."""
        self._consumer, self._cursor, self._page = consumer, cursor, page
        self._is_poll = poll_seconds is not None
        if poll_seconds is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(poll_seconds, self.give_nothing)

    def close(self) -> None:
        super().close()
        if self._timer is not None:
            self._timer.cancel()
        self.__dict__.pop("_consumer", None)

    async def _step(self) -> bool:
        tail, position = self.tail, self._position
        if tail.is_reset:
            self._stop(close_codes.ASKED_TO_RECONNECT)
            return False
        if position is None:
            return False
        if tail.is_doubted:
            if self._is_over:
                self._stop(close_codes.UNAVAILABLE)
            return False
        self._set_busy(bool(tail.growing))
        if position < tail.last_offset and position + 1 not in tail.growing:
            page, self._page = self._page, None
            if page is None or not page.entries:
                try:
                    page = await self._read(position)
                except DatabaseUnavailable:
                    if not self._is_over:
                        raise
                    # A long poll does not outlast its time.
                    self._stop(close_codes.UNAVAILABLE)
                    return False
                except SessionNotFound:
                    self._stop(close_codes.NOT_FOUND)
                    return False
                except (OffsetGone, ValueError):
                    # The next request is told that its offset is gone.
                    self._stop(close_codes.SLOW_CONSUMER)
                    return False
            if page.growing is not None:
                tail.grow(page.growing, page.growing.text, page.growing.parts)
            if page.entries:
                await self._send_page(page)
                return not self._is_over
        if self._is_over or (not self._has_control and not self._is_poll):
            is_last, self._has_control = self._is_over, True
            await self._send_page(self._make_empty(position))
            return not is_last
        return False

    async def _read(self, position: int) -> StreamPage:
        offset = StreamOffset(self.tail.epoch or "", position)
        return await self._database.read(read_page, self.tail.session_id, offset)

    def _stop(self, close_reason: close_codes.CloseReason) -> None:
        """End the connection, and send nothing more."""
        self._position = None
        self._connection.end(close_reason)

    def _make_empty(self, position: int) -> StreamPage:
        return StreamPage(
            entries=[],
            next_offset=StreamOffset(self.tail.epoch or "", position),
            is_up_to_date=True,
        )

    async def _send_page(self, page: StreamPage) -> None:
        self._has_control = True
        self._position = page.next_offset.after
        self._cursor = make_cursor(self._cursor)
        await self._consumer.send_page(page, self._cursor)
        if self._is_poll:
            self._is_over = True
            self._stop(close_codes.CLOSED)

    def give_nothing(self) -> None:
        """Answer a long poll for which no entry came."""
        self._is_over = True
        self.wake()


def make_cursor(given: str, now: float | None = None) -> str:
    """Return the cursor of this interval, and always one above that of the client."""
    interval = int((now or time.time()) - _CURSORS_BEGIN) // _CURSOR_SECONDS
    if given.isascii() and given.isdigit() and len(given) < 16:
        known = int(given)
        if known >= interval:
            return str(known + random.randint(1, _MOST_JITTER))
    return str(interval)


def live_urlpatterns() -> list[URLPattern]:
    """Return the routes for protect(live=...)."""
    # The types of Django know no routes with ASGI applications, as Channels has.
    return [path("api/sessions/<str:session_id>/stream/", cast(Any, _choose))]


class _LiveSocket(SessionConsumer):
    """The messages of a socket as server-sent events."""

    async def connect(self) -> None:
        take_request(self)
        named = self.scope["url_route"]["kwargs"]
        if named["session_id"] not in (NEW, MANY):
            client_id = self.connection.client_id
            named["session_id"] = find_named(client_id, named["session_id"])
        await super().connect()


def take_request(consumer: LimitedJsonConsumer) -> None:
    """
    Count a live request for the rate of its client, as other requests.

    Raises:
        Refused: the client made too many.
    """
    rate = consumer.scope["node"].config.rate_limit
    client_id = consumer.connection.client_id
    try:
        rates.take(client_id, rate.messages_per_second, rate.burst_messages)
    except ApiError as exc:
        raise Refused(close_codes.RATE_LIMITED) from exc


_AS_SOCKET = _LiveSocket.as_asgi()
_AS_STREAM = LiveReader.as_asgi()


def _choose(scope: Message, receive: Receive, send: Send) -> Awaitable[None]:
    """Serve the messages of a socket to clients that name a subprotocol."""
    is_socket = scope["subprotocols"] and get_extension(scope, CARRIER) == "sse"
    chosen: Application = _AS_SOCKET if is_socket else _AS_STREAM
    return chosen(scope, receive, send)
