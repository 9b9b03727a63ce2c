"""Receive the notifications of PostgreSQL on a connection of its own."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, LiteralString

import psycopg
from django.db import Error as DatabaseError
from psycopg import sql

from connections.background import BackgroundTasks
from connections.deadline import deadline
from connections.error_log import get_logger
from connections.exceptions import DatabaseUnavailable
from connections.models.alias import get_connection
from connections.postgres.messages import read_message
from connections.storage.database import Database
from connections.storage.deadlines import shut_down
from connections.units import Clock

logger = get_logger(__name__)

OnMessage = Callable[[str, str], None]

_RETRY_SECONDS = (0.1, 2.0)
"""The first and the longest wait between attempts to listen again."""

_CONNECT_SECONDS = 5
_POLL_SECONDS = 1
"""The time between two reports of missing messages, without a connection."""

_PROBE_SECONDS = 5

_NOT_OF_LIBPQ = (
    *("context", "cursor_factory", "prepare_threshold", "isolation_level"),
    *("server_side_binding", "assume_role", "pool"),
)


class BehindPooler(Exception):
    """The connection passes a pooler, which may give each transaction another one."""


class Listener:
    """
    LISTEN on some channels, on one connection that is opened again when it breaks.

    The URL names the connection; without it, it is that of DATABASES,
    unless a pooler is behind that. A message that is a row is read from the database.
    Every _PROBE_SECONDS a statement checks that the
    connection works. While there is none, on_missing() is called
    every second, because messages are missing.

    Behind a pooler poll() reads the messages instead, where it is given: it waits by
    itself, returns True if messages before are missing, and raises TimeoutError if
    the database does not answer.
    """

    def __init__(
        self,
        channels: Sequence[str],
        *,
        name: str,
        database: Database,
        on_message: OnMessage,
        on_return: Callable[[], None],
        on_missing: Callable[[], None] = lambda: None,
        poll: Callable[[], Awaitable[bool]] | None = None,
        url: str = "",
        timeout_seconds: float = 1,
        clock: Clock = time.monotonic,
    ) -> None:
        self.is_subscribed = False
        self._channels = channels
        self._name = name
        self._database = database
        self._on_message = on_message
        self._on_return = on_return
        self._on_missing = on_missing
        self._poll_messages = poll
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._tasks = BackgroundTasks()
        self._is_failing = False
        self._has_subscribed = False
        self._has_tried = asyncio.Event()
        self._is_pooler_logged = False

    def start(self) -> None:
        """Start receiving; a second call does nothing."""
        if not self._tasks:
            self._tasks.start(self._run(), "The listener for notifications")

    async def wait(self) -> None:
        """Wait until the first attempt to listen has succeeded or failed."""
        self.start()
        await self._has_tried.wait()

    async def close(self) -> None:
        """Stop receiving."""
        await self._tasks.stop()
        self._has_tried.clear()
        self._has_subscribed = False

    def on_failure(self, exc: Exception) -> None:
        """Log that PostgreSQL is away, once per outage."""
        if not self._is_failing:
            self._is_failing = True
            logger.warning(
                "%s is down: %s",
                self._name,
                str(exc).strip() or type(exc).__name__,
                extra={"event": "subscription_down"},
            )

    def hand_on(self, channel: str, text: str) -> None:
        """Pass a message on; what the callback raises is logged."""
        try:
            self._on_message(channel, text)
        except Exception as exc:
            # One message that nobody can take must not end the subscription.
            logger.error(
                "%s could not hand on a message: %s",
                self._name,
                exc,
                exc_info=exc,
                extra={"event": "subscription_message_failed"},
            )

    async def _run(self) -> None:
        wait_seconds, longest_seconds = _RETRY_SECONDS
        while True:
            started = self._clock()
            try:
                try:
                    await self._listen()
                except BehindPooler:
                    self._log_pooler()
                    await self._poll()
            except Exception as exc:
                # A notification can hold anything, such as a number of 5000 digits.
                self.on_failure(exc)
            finally:
                self.is_subscribed = False
                self._has_tried.set()
            if self._clock() - started > longest_seconds:
                wait_seconds = _RETRY_SECONDS[0]
            await asyncio.sleep(wait_seconds * random.uniform(0.5, 1))
            wait_seconds = min(2 * wait_seconds, longest_seconds)
            self._on_missing()

    def _log_pooler(self) -> None:
        if not self._is_pooler_logged:
            self._is_pooler_logged = True
            logger.warning(
                "The database is behind a pooler, where LISTEN does not work: nodes"
                " poll instead. DATABASE_LISTEN_URL may name a direct connection",
                extra={"event": "listen_polls"},
            )

    async def _poll(self) -> None:
        """
        Poll until the database does not answer.

        Raises:
            TimeoutError: it did not.
        """
        while True:
            if self._poll_messages is None:
                # The first attempt to listen has failed for good.
                self._has_tried.set()
                await asyncio.sleep(_POLL_SECONDS)
                self._on_missing()
            elif await self._poll_messages() or not self.is_subscribed:
                self._on_subscribed()

    async def _listen(self) -> None:
        """
        Listen and pass messages on until the connection breaks.

        Raises:
            BehindPooler: LISTEN would not work.
            psycopg.Error, OSError, TimeoutError: the connection broke.
        """
        if not self._url and _is_pooled():
            raise BehindPooler
        async with deadline(_CONNECT_SECONDS):
            connection = await connect(self._url)
        try:
            await self._subscribe(connection)
            self._on_subscribed()
            while True:
                async for message in connection.notifies(timeout=_PROBE_SECONDS):
                    text = await self._resolve(message.payload)
                    if text is None:
                        self._on_return()  # A message is missing.
                    else:
                        self.hand_on(message.channel, text)
                await _execute(connection, "SELECT 1", self._timeout_seconds)
        finally:
            await connection.close()

    async def _resolve(self, payload: str) -> str | None:
        """
        Return a message, which is in a row if a notification has only a number.

        None stands for a row that was deleted unread, because it was old.

        Raises:
            TimeoutError: the database did not answer, and the message is lost.
        """
        if not payload.isdecimal():
            return payload
        try:
            async with deadline(self._timeout_seconds):
                return await self._database.run_briefly(read_message, int(payload))
        except (DatabaseError, DatabaseUnavailable) as exc:
            raise TimeoutError(str(exc)) from exc

    async def _subscribe(self, connection: psycopg.AsyncConnection[Any]) -> None:
        asked = "SELECT pg_backend_pid()"
        cursor = await _execute(connection, asked, _CONNECT_SECONDS)
        row = await cursor.fetchone()
        # A pooler gives its clients process ids of its own.
        if row is None or row[0] != connection.info.backend_pid:
            raise BehindPooler
        for channel in self._channels:
            listen = sql.SQL("LISTEN {}").format(sql.Identifier(channel))
            await _execute(connection, listen, _CONNECT_SECONDS)

    def _on_subscribed(self) -> None:
        if self._is_failing:
            logger.warning(
                "%s is back", self._name, extra={"event": "subscription_back"}
            )
        self._is_failing = False
        self.is_subscribed = True
        self._has_tried.set()
        if self._has_subscribed:
            self._on_return()
        self._has_subscribed = True


async def _execute(
    connection: psycopg.AsyncConnection[Any],
    statement: LiteralString | sql.Composed,
    seconds: float,
) -> psycopg.AsyncCursor[Any]:
    """
    Run a statement; without an answer shut the connection down at once.

    A cancelled execute() of psycopg asks PostgreSQL to cancel the statement, and
    waits up to ten seconds for answers that a silent link does not bring.

    Raises:
        psycopg.Error, TimeoutError: the connection broke.
    """
    running = asyncio.ensure_future(connection.execute(statement))
    try:
        async with deadline(seconds):
            await asyncio.wait([running])
    except BaseException:
        # It may have broken by itself just now.
        with suppress(OSError, psycopg.Error):
            shut_down(connection.fileno())
        await asyncio.wait([running])
        # Read, so that asyncio does not log it.
        running.exception()
        raise
    return running.result()


async def connect(url: str) -> psycopg.AsyncConnection[Any]:
    """
    Return a connection to a URL, or to the database of the node.

    Raises:
        psycopg.Error: PostgreSQL does not answer, or refuses.
    """
    if url:
        return await psycopg.AsyncConnection.connect(url, autocommit=True)
    options = get_connection().get_connection_params()
    options = {
        name: value for name, value in options.items() if name not in _NOT_OF_LIBPQ
    }
    return await psycopg.AsyncConnection.connect(**options, autocommit=True)


def _is_pooled() -> bool:
    """Return True if the settings say that transactions share connections."""
    return bool(get_connection().settings_dict["DISABLE_SERVER_SIDE_CURSORS"])
