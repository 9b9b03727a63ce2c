"""Follow many sessions on one connection."""

import asyncio
import contextlib
import itertools
import json
import random
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlencode

from websockets.exceptions import ConnectionClosed

from connections import close_codes
from connections.client.apart import Apart
from connections.client.attached_socket import AttachedSocket
from connections.client.connect import OpenSocket, Socket, open_connection
from connections.client.events import State
from connections.client.heartbeat import Heartbeat
from connections.client.outbox import TOO_BIG
from connections.client.reconnect import Ended, Random
from connections.client.reconnecting_socket import OPENING_SECONDS, ReconnectingSocket
from connections.client.session import SessionClient
from connections.client.tokens import GetToken, Renewal, Sleep, Token, ask_token
from connections.client.urls import SessionsUrl

_MANY = "many"
_SUBPROTOCOLS = ("orchestra.v2",)
_LEAST_RETRY_SECONDS = 0.2
_GOING_AWAY = 1001
"""No code that a bye explains."""


class SharedConnection:
    """
    One connection that many sessions share; use it with `async with`.

        async with SharedConnection("wss://host/ws/sessions/", token=TOKEN) as shared:
            async with shared.session(first) as one, shared.session(second) as other:
                await one.request({"text": "Hello"})

    Each session is a SessionClient with its own order, position and end. With a server
    that attaches one session to a connection, and over plain HTTP, each gets a
    connection of its own, and `is_shared` is False until one of them reconnects after
    a drain, because it was asked to, or after ten minutes.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token = None,
        get_token: GetToken | None = None,
        answer_timeout_seconds: float = 15,
        heartbeat_timeout_seconds: float = 5,
        rng: Random = random.random,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        open_socket: OpenSocket = open_connection,
    ) -> None:
        """
        Prepare a connection; `url`, `token`, `get_token` and `open_socket` are as for
        SessionClient.

        Raises:
            ValueError: the URL is not ws://host/path or wss://host/path.
        """
        self.hello: dict[str, Any] = {}
        """The server's last hello on the connection: limits, heartbeat, connection."""
        self._url = SessionsUrl(url)
        self._address = url
        self._can_renew = get_token is not None
        self._get_token = get_token or (lambda is_expired: token)
        self._options: dict[str, Any] = {"rng": rng, "sleep": sleep, "clock": clock}
        self._sleep = sleep
        self._open_socket = open_socket
        self._apart = Apart(clock)
        # A client that is closed, and that nobody holds, is gone.
        self._clients: weakref.WeakSet[SessionClient] = weakref.WeakSet()
        self._request_ids = itertools.count(1)
        # The sockets that wait for their hello, by the id of their attach, and those
        # that have it, by session.
        self._asking: dict[str, AttachedSocket] = {}
        self._attached: dict[str, AttachedSocket] = {}
        # The sessions to detach, and those whose detach the server has not answered.
        self._to_detach: list[str] = []
        self._leaving: set[str] = set()
        self._is_due = asyncio.Event()
        self._retry_seconds: float | None = None
        self._heartbeat = Heartbeat(
            timeout_seconds=heartbeat_timeout_seconds,
            sleep=sleep,
            ping=self._ping,
            drop=self.drop,
        )
        self._has_changed = asyncio.Event()
        self._renewal = Renewal(
            self.refresh, answer_seconds=answer_timeout_seconds, rng=rng, sleep=sleep
        )
        self._socket = ReconnectingSocket(
            make_url=self._make_url,
            subprotocols=_SUBPROTOCOLS,
            get_token=self._get_token,
            attend=self._attend,
            on_change=self._change_state,
            open_socket=open_socket,
            **self._options,
        )

    async def __aenter__(self) -> "SharedConnection":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def state(self) -> State:
        """The state of the shared connection, which opens with the first session."""
        return self._socket.state

    @property
    def is_shared(self) -> bool:
        """False while each session has a connection of its own."""
        return not self._apart.is_now

    @property
    def ended(self) -> Ended | None:
        """The end of the last shared connection."""
        return self._socket.ended

    def session(self, session: str = "new", **options: Any) -> SessionClient:
        """
        Return the client of a session, the same one for each id.

        `new` is a new session at each call. Options are those of SessionClient, except
        for the token; those of the first call count.
        """
        for client in self._clients:
            if session == client.session != "new":
                return client
        client = SessionClient(
            self._address,
            session=session,
            get_token=self._ask_apart,
            open_socket=lambda *asked: self._open(client, *asked),
            **{**self._options, **options},
        )
        self._clients.add(client)
        return client

    async def close(self) -> None:
        """Close the clients of all sessions, and the connection."""
        await asyncio.gather(*(client.close() for client in self._clients))
        await self._socket.close()

    def drop(self) -> None:
        """Drop the connection as if the network had failed, and reconnect."""
        self._socket.drop()

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

    async def _ask_apart(self, is_expired: bool) -> Token:
        """Return the token of a session that has a connection of its own."""
        return None if self.is_shared else await ask_token(self._get_token, is_expired)

    def _make_url(self) -> str:
        replaces = {"replaces": self.hello["connection"]} if self.hello else {}
        return self._url.make(_MANY, urlencode(replaces))

    async def _open(
        self,
        client: SessionClient,
        url: str,
        token: str | None,
        subprotocols: Sequence[str],
    ) -> Socket:
        """Attach to a session, in place of a connection of its own."""
        if self._apart.has(client):
            return await self._open_socket(url, token, subprotocols)
        request_id = str(next(self._request_ids))
        socket = AttachedSocket(
            url, request_id=request_id, send=self._socket.send, on_close=self._leave
        )
        ended = await self._wait_until_open()
        if not self.is_shared:
            raise ConnectionResetError("each session gets a connection of its own")
        if ended is not None:
            socket.end(ended.code, ended.reason)
            return socket
        self._asking[request_id] = socket
        try:
            await self._detach()
            await self._say(socket.attach)
        except BaseException:
            # Its hello may come all the same, and is then answered with a detach.
            socket.abort()
            raise
        return socket

    async def _wait_until_open(self) -> Ended | None:
        """Connect if need be, and wait; return the end if it stays closed."""
        state = self.state
        if state in (State.IDLE, State.CLOSED):
            self._socket.connect()
            state = State.CONNECTING
        while state not in (State.OPEN, State.CLOSED):
            self._has_changed.clear()
            await self._has_changed.wait()
            state = self.state
        return None if state is State.OPEN else self.ended

    def _change_state(self, state: State, delay_seconds: float | None) -> None:
        if state is State.CLOSED and self.ended is not None:
            self._apart.begin(self.ended)
        self._has_changed.set()
        if state is State.OPEN:
            for client in list(self._clients):
                if client.state is State.WAITING or self._apart.was_evicted(client):
                    client.connect()

    async def _attend(self, socket: Socket) -> None:
        try:
            await self._converse(socket)
        finally:
            self._renewal.stop()
            self._end_all(socket)

    def _end_all(self, socket: Socket) -> None:
        """End the connection for all sessions."""
        sockets = [*self._asking.values(), *self._attached.values()]
        self._asking.clear()
        self._attached.clear()
        self._to_detach.clear()
        self._leaving.clear()
        self._retry_seconds = None
        code = socket.close_code or close_codes.NETWORK.code
        is_expired = code == close_codes.TOKEN_EXPIRED.code
        if code in TOO_BIG:
            # One message was too big, and the others are sent again.
            sockets.sort(key=lambda one: one.biggest)
            while len(sockets) > 1:
                sockets.pop(0).end(_GOING_AWAY)
        for one in sockets:
            # The shared connection returns with a new token by itself.
            one.end(close_codes.NETWORK.code if is_expired else code)

    async def _converse(self, socket: Socket) -> None:
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(OPENING_SECONDS):
                while self.state is not State.OPEN:
                    self._receive(json.loads(await socket.recv()))
            every_seconds = self.hello["heartbeat_seconds"]
            async with asyncio.TaskGroup() as tasks:
                aside = [
                    tasks.create_task(self._heartbeat.beat(every_seconds)),
                    tasks.create_task(self._repeat()),
                ]
                with contextlib.suppress(ConnectionClosed):
                    async for text in socket:
                        self._receive(json.loads(text))
                for task in aside:
                    task.cancel()

    async def _ping(self) -> None:
        await self._say({"type": "ping"})

    async def _repeat(self) -> None:
        """Send what the server has not answered, which may have been over the rate."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self._is_due.wait()
                self._is_due.clear()
                if self._retry_seconds is not None:
                    await self._sleep(self._retry_seconds)
                    self._retry_seconds = None
                    await self._ask_again()
                await self._detach()

    async def _ask_again(self) -> None:
        """Send each attach and detach without an answer once more."""
        asked = [one for one in self._asking.values() if one.close_code is None]
        wanted = {*self._attached, *(one.attach["session"] for one in asked)}
        self._to_detach += sorted(self._leaving - wanted - set(self._to_detach))
        for one in asked:
            await self._say(one.attach)

    async def _detach(self) -> None:
        """Detach from the sessions that were left, before another one is attached."""
        while self._to_detach:
            session = self._to_detach.pop(0)
            self._leaving.add(session)
            await self._say({"type": "detach", "session": session})

    async def _say(self, message: dict[str, Any]) -> None:
        await self._socket.send(json.dumps(message))

    def _leave(self, socket: AttachedSocket) -> None:
        """Detach from a session whose client has closed or dropped it."""
        if self._attached.get(socket.session) is socket:
            del self._attached[socket.session]
            self._detach_soon(socket.session)

    def _detach_soon(self, session: str) -> None:
        self._to_detach.append(session)
        self._is_due.set()

    def _receive(self, message: dict[str, Any]) -> None:
        self._heartbeat.hear()
        take = getattr(self, f"_take_{message['type']}", self._take_other)
        take(message)

    def _take_hello(self, hello: dict[str, Any]) -> None:
        if "session" not in hello:
            self.hello = hello
            self._socket.mark_ready()
            return
        socket = self._asking.pop(hello["id"], None)
        if socket is None:
            return
        socket.session = hello["session"]
        self._attached[socket.session] = socket
        socket.feed(hello)
        if socket.close_code is not None:
            self._leave(socket)

    def _take_detached(self, message: dict[str, Any]) -> None:
        session = message["session"]
        self._leaving.discard(session)
        socket = self._attached.pop(session, None)
        if socket is not None and message["code"] != close_codes.CLOSED.code:
            socket.feed({**message, "type": "bye"})
            socket.end(message["code"], message["reason"])
        elif socket is not None:
            socket.end(close_codes.NETWORK.code)

    def _take_error(self, error: dict[str, Any]) -> None:
        code, session, message_id = error["code"], error.get("session"), error.get("id")
        asked = self._asking.pop(message_id or "", None)
        if asked is not None:
            asked.refuse(error)
            if code == "already_attached":
                # Its detach was over the rate.
                self._detach_soon(asked.attach["session"])
        elif code == "not_attached" and session is not None:
            self._leaving.discard(session)
            if socket := self._attached.pop(session, None):
                socket.end(close_codes.NETWORK.code)
        elif code == "already_attached":
            return  # The answer to an attach that was sent twice.
        elif session is not None:
            self._take_other(error)
        else:
            self._take_unnamed_error(error)

    def _take_unnamed_error(self, error: dict[str, Any]) -> None:
        """Hand on an error about a message of a session that is not named."""
        for socket in self._attached.values():
            if error.get("id") in socket.unanswered:
                socket.feed(error)
                return
        if error["code"] == "rate_limited":
            seconds = error.get("retry_after_seconds") or 1
            self._retry_seconds = max(_LEAST_RETRY_SECONDS, seconds)
            self._is_due.set()
        self._feed_all(error)

    def _take_pong(self, pong: dict[str, Any]) -> None:
        for session, offset in pong.get("offsets", {}).items():
            if socket := self._attached.get(session):
                socket.feed({"type": "pong", "offset": offset})

    def _take_bye(self, bye: dict[str, Any]) -> None:
        self._socket.on_bye(bye)
        self._feed_all(bye)

    def _take_notice(self, notice: dict[str, Any]) -> None:
        self._feed_all(notice)

    def _take_expiring(self, message: dict[str, Any]) -> None:
        if self._can_renew:
            self._renewal.start()

    def _take_refreshed(self, message: dict[str, Any]) -> None:
        self._renewal.complete()

    def _take_other(self, message: dict[str, Any]) -> None:
        socket = self._attached.get(message.get("session", ""))
        if socket is not None:
            socket.feed(message)

    def _feed_all(self, message: dict[str, Any]) -> None:
        for socket in self._attached.values():
            socket.feed(message)
