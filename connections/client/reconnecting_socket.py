"""Keep a connection open: reconnect as each close code advises."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from websockets.exceptions import WebSocketException

from connections import close_codes
from connections.client.connect import (
    OpenSocket,
    Socket,
    open_connection,
    read_failure,
)
from connections.client.events import State
from connections.client.reconnect import Ended, Random, decide, read_end
from connections.client.tokens import (
    GetToken,
    Sleep,
    Token,
    UnauthorizedError,
    ask_token,
)
from connections.close_codes import Reconnect

logger = logging.getLogger(__name__)

OPENING_SECONDS = 10.0
_LASTING_SECONDS = 10.0
"""A connection that lasts this long counts as a success."""
_BYE_GRACE_SECONDS = 3.0
"""How long a close frame may come after the moment that a bye named."""
_LOST = close_codes.NETWORK.code


class ReconnectingSocket:
    """
    Opens a connection again after each end, as the end advises.

    It does not read messages: `attend` serves an open connection until its end, and
    calls mark_ready() once it is established.
    """

    def __init__(
        self,
        *,
        make_url: Callable[[], str],
        subprotocols: Sequence[str],
        get_token: GetToken,
        attend: Callable[[Socket], Awaitable[None]],
        on_change: Callable[[State, float | None], None],
        rng: Random,
        sleep: Sleep,
        clock: Callable[[], float] = time.monotonic,
        open_socket: OpenSocket = open_connection,
    ) -> None:
        self.state = State.IDLE
        self.ended: Ended | None = None
        """The end of the last connection."""
        self._make_url = make_url
        self._subprotocols = subprotocols
        self._get_token = get_token
        self._attend = attend
        self._open_socket = open_socket
        self._on_change = on_change
        self._random = rng
        self._sleep = sleep
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._socket: Socket | None = None
        self._wanted = asyncio.Event()
        self._bye: dict[str, Any] | None = None
        self._bye_at = 0.0
        self._farewell: asyncio.TimerHandle | None = None
        self._failures = 0
        self._ready_at: float | None = None
        self._drained_at = float("-inf")
        self._last_token: Token = None
        self._is_expired = False
        self._has_renewed = False

    def connect(self) -> None:
        """Connect now, whatever came before; a connection under way stays."""
        if self._task is None:
            self._task = asyncio.create_task(self._stay())
            self._task.add_done_callback(self._on_failure)
        self._wanted.set()

    def wake(self) -> None:
        """Report an action of the user: one that ended as idle or evicted returns."""
        is_closed = self.state is State.CLOSED
        if is_closed and self.ended is not None and not self.ended.is_final:
            self.connect()

    async def close(self) -> None:
        """End the connection for good; connect() begins anew."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        self.ended = read_end(close_codes.CLOSED.code, "", None)
        self._change(State.CLOSED)

    def drop(self) -> None:
        """Drop the connection as if the network had failed, and reconnect."""
        if self._socket is not None:
            self._socket.transport.abort()

    async def send(self, text: str) -> None:
        """Send if a connection is open."""
        if self._socket is not None:
            await self._socket.send(text)

    def mark_ready(self) -> None:
        """Mark the connection as established, for example after a hello."""
        self._ready_at = self._clock()
        self._is_expired = self._has_renewed = False
        self.ended = None
        self._change(State.OPEN)

    def on_bye(self, bye: dict[str, Any]) -> None:
        """Record that the server announced the end."""
        self._bye = bye
        self._bye_at = self._clock()
        # The close comes at that moment, unless the network fails before.
        seconds = (bye.get("after_ms") or 0) / 1000 + _BYE_GRACE_SECONDS
        loop = asyncio.get_running_loop()
        self._forget_farewell()
        self._farewell = loop.call_later(seconds, self.drop)

    async def _stay(self) -> None:
        while True:
            self._wanted.clear()
            self._change(State.CONNECTING)
            ended = await self._live_once()
            delay = self._decide(ended)
            self.ended = ended
            if delay is not None:
                self._change(State.WAITING, delay)
                await self._wait(delay)
            else:
                self._failures = 0
                self._wanted.clear()
                self._change(State.CLOSED)
                await self._wanted.wait()

    def _on_failure(self, task: asyncio.Task[None]) -> None:
        """Wake all waiters if the server spoke another protocol."""
        if task.cancelled():
            return
        logger.error(
            "The server broke the protocol; the connection stays closed",
            exc_info=task.exception(),
        )
        if task is self._task:
            self._task = None
        self.ended = read_end(close_codes.PROTOCOL_ERROR.code, "", None)
        self._change(State.CLOSED)

    async def _wait(self, seconds: float) -> None:
        """Sleep until the time is over or connect() is called."""
        self._wanted.clear()
        sleeping = asyncio.ensure_future(self._sleep(seconds))
        wanted = asyncio.create_task(self._wanted.wait())
        try:
            await asyncio.wait((sleeping, wanted), return_when="FIRST_COMPLETED")
        finally:
            sleeping.cancel()
            wanted.cancel()

    async def _live_once(self) -> Ended:
        """Open one connection and serve it until it has ended."""
        self._bye = None
        try:
            token = await ask_token(self._get_token, self._is_expired)
        except UnauthorizedError as exc:
            logger.warning("The connection stays closed: %s", exc)
            return read_end(close_codes.UNAUTHENTICATED.code, "", None)
        except Exception as exc:
            # The function is the user's: it may reach a server that is away.
            logger.warning("No token for the connection: %r; trying again", exc)
            return read_end(_LOST, "no_token", None)
        if self._is_expired and token == self._last_token:
            return read_end(close_codes.TOKEN_EXPIRED.code, "", None)
        self._last_token = token
        try:
            async with asyncio.timeout(OPENING_SECONDS):
                url = self._make_url()
                socket = await self._open_socket(url, token, self._subprotocols)
        except TimeoutError:
            return read_end(_LOST, "timeout", None)
        except (OSError, WebSocketException) as exc:
            return read_failure(exc)
        self._socket = socket
        try:
            await self._attend(socket)
        except asyncio.CancelledError:
            await socket.close()
            raise
        finally:
            self._socket = None
            self._forget_farewell()
            socket.transport.abort()
        code = socket.close_code or _LOST
        return read_end(code, socket.close_reason or "", self._bye)

    def _decide(self, ended: Ended) -> float | None:
        now = self._clock()
        if self._ready_at is not None and now - self._ready_at >= _LASTING_SECONDS:
            self._failures = 0
        self._ready_at = None
        if ended.code == close_codes.DRAINING.code:
            self._drained_at = now
        delay = decide(
            ended,
            failures=self._failures,
            random=self._random,
            elapsed_seconds=now - self._bye_at if self._bye else 0,
            since_drain_seconds=now - self._drained_at,
        )
        if ended.reconnect is Reconnect.NEW_TOKEN:
            if not self._has_renewed:
                delay = 0
            self._is_expired = self._has_renewed = True
        self._failures += 1
        return delay

    def _forget_farewell(self) -> None:
        if self._farewell is not None:
            self._farewell.cancel()
            self._farewell = None

    def _change(self, state: State, delay_seconds: float | None = None) -> None:
        if state is not self.state:
            self.state = state
            self._on_change(state, delay_seconds)
