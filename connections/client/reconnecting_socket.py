"""A connection that comes back, when and how its end advises."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidHandshake

from connections import close_codes
from connections.client.connect import open_connection, read_failure
from connections.client.events import State
from connections.client.reconnect import Ended, Random, decide, read_end
from connections.close_codes import Reconnect

OPENING_SECONDS = 10.0
_LASTING_SECONDS = 10.0
"""A connection that lasted so long counts as a success."""
_BYE_GRACE_SECONDS = 3.0
"""For a close frame to come after the moment that a bye named."""
_LOST = close_codes.NETWORK.code

Token = str | None
GetToken = Callable[[bool], Token | Awaitable[Token]]
"""Called with true where the last token had expired."""
Sleep = Callable[[float], Awaitable[None]]


class ReconnectingSocket:
    """
    Opens a connection again and again, as each end advises.

    It knows nothing of what is said: `attend` serves an open connection until it
    has ended, and calls mark_ready() once it is established.
    """

    def __init__(
        self,
        *,
        make_url: Callable[[], str],
        subprotocol: str,
        get_token: GetToken,
        attend: Callable[[ClientConnection], Awaitable[None]],
        on_change: Callable[[State, float | None], None],
        rng: Random,
        sleep: Sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state = State.IDLE
        self.ended: Ended | None = None
        """How the last connection ended."""
        self._make_url = make_url
        self._subprotocol = subprotocol
        self._get_token = get_token
        self._attend = attend
        self._on_change = on_change
        self._random = rng
        self._sleep = sleep
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._socket: ClientConnection | None = None
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
        """Connect now, whatever came before; what is under way stays."""
        if self._task is None:
            self._task = asyncio.create_task(self._stay())
            self._task.add_done_callback(self._on_failure)
        self._wanted.set()

    def wake(self) -> None:
        """Tell that the user did something: an idle connection returns."""
        advice = self.ended and self.ended.reconnect
        if self.state is State.CLOSED and advice is Reconnect.ON_ACTION:
            self.connect()

    async def close(self) -> None:
        """
        End it for good; connect() begins anew.

        What the server sent against the protocol, if anything, is raised here.
        """
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        self.ended = read_end(close_codes.CLOSED.code, "", None)
        self._change(State.CLOSED)
        if task is not None and not task.cancelled():
            task.result()

    def drop(self) -> None:
        """Give the connection up as if the network had failed, and return."""
        if self._socket is not None:
            self._socket.transport.abort()

    async def send(self, text: str) -> None:
        """Send where there is an open connection."""
        if self._socket is not None:
            await self._socket.send(text)

    def mark_ready(self) -> None:
        """Tell that the connection is established: after a hello, say."""
        self._ready_at = self._clock()
        self._is_expired = self._has_renewed = False
        self.ended = None
        self._change(State.OPEN)

    def on_bye(self, bye: dict[str, Any]) -> None:
        """Tell that the server announced the end."""
        self._bye = bye
        self._bye_at = self._clock()
        # The close comes at that moment; a network that fails meanwhile sends none.
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
        """Leave nobody waiting where the server spoke another protocol."""
        if not task.cancelled():
            self.ended = read_end(close_codes.PROTOCOL_ERROR.code, "", None)
            self._change(State.CLOSED)

    async def _wait(self, seconds: float) -> None:
        """Sleep, but no longer than until connect() is called."""
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
        token = self._get_token(self._is_expired)
        if inspect.isawaitable(token):
            token = await token
        if self._is_expired and token == self._last_token:
            return read_end(close_codes.TOKEN_EXPIRED.code, "", None)
        self._last_token = token
        try:
            async with asyncio.timeout(OPENING_SECONDS):
                url = self._make_url()
                socket = await open_connection(url, token, self._subprotocol)
        except TimeoutError:
            return read_end(_LOST, "timeout", None)
        except (OSError, InvalidHandshake) as exc:
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
            elapsed_seconds=now - self._bye_at,
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
