"""Ask for the token of a connection, and renew it before it expires."""

import asyncio
import inspect
import itertools
import logging
import re
from collections.abc import Awaitable, Callable

from connections.client.reconnect import Random, back_off

logger = logging.getLogger(__name__)

Token = str | None
GetToken = Callable[[bool], Token | Awaitable[Token]]
"""Called with True if the last token has expired."""
Sleep = Callable[[float], Awaitable[None]]

_TOKEN_SECONDS = 10.0

_HEADER_VALUE = re.compile(r"[\x21-\x7e]+")


class UnauthorizedError(Exception):
    """Raised by `get_token` to stop: the client stays closed until connect()."""


class InvalidToken(UnauthorizedError):
    """The token cannot be sent in a header; it is not named here."""

    def __str__(self) -> str:
        return "a token has to be text of visible ASCII characters without spaces"


async def ask_token(get_token: GetToken, is_expired: bool) -> Token:
    """
    Return the token of a new connection, or a new one for an open connection.

    Raises:
        UnauthorizedError: there is none, and asking again changes nothing.
        TimeoutError: it did not come within ten seconds.
        Exception: whatever else the user's function raises.
    """
    try:
        token = get_token(is_expired)
        if inspect.isawaitable(token):
            async with asyncio.timeout(_TOKEN_SECONDS):
                token = await token
    except asyncio.CancelledError as exc:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # It would end the task of the client, and nobody would learn it.
        raise RuntimeError("what get_token awaited has been cancelled") from exc
    if not token:
        return None
    if not isinstance(token, str) or not _HEADER_VALUE.fullmatch(token):
        raise InvalidToken
    return token


class Renewal:
    """
    Renews the token of an open connection, again until the server takes one.

    A failure of the user's function is logged and tried again, until the
    connection closes.
    """

    def __init__(
        self,
        refresh: Callable[[], Awaitable[None]],
        *,
        answer_seconds: float,
        rng: Random,
        sleep: Sleep,
    ) -> None:
        self._refresh = refresh
        self._answer_seconds = answer_seconds
        self._random = rng
        self._sleep = sleep
        self._is_done = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to renew, unless it is under way."""
        if self._task is None or self._task.done():
            self._is_done.clear()
            self._task = asyncio.create_task(self._run())

    def complete(self) -> None:
        """Record that the server took the token."""
        self._is_done.set()

    def stop(self) -> None:
        """Stop: the connection has ended."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        for failures in itertools.count():
            try:
                await self._refresh()
            except UnauthorizedError as exc:
                logger.warning("The token is not renewed: %s", exc)
                return
            except Exception as exc:
                # The function is the user's: its failure is not the connection's.
                logger.warning("The token was not renewed: %r", exc)
            else:
                if await self._is_taken():
                    return
                logger.info("No answer to a new token; it is asked for again")
            await self._sleep(back_off(failures, self._random))

    async def _is_taken(self) -> bool:
        """Wait for the answer of the server; return whether there was one in time."""
        try:
            async with asyncio.timeout(self._answer_seconds):
                await self._is_done.wait()
        except TimeoutError:
            return False
        return True
