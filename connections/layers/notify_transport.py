"""Carry the messages of the channel layer through LISTEN and NOTIFY."""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from typing import Any, Protocol

from django.db import Error as DatabaseError

from connections.asgi import Message
from connections.background import BackgroundTasks
from connections.deadline import deadline
from connections.exceptions import DatabaseUnavailable
from connections.layers.losses import Losses
from connections.layers.mailbox import GAP
from connections.layers.transport import Receiver
from connections.models.alias import get_connection
from connections.postgres.listener import Listener
from connections.storage.database import Database

CHANNEL = "orchestra:layer:"
"""The channel of PostgreSQL, before the prefix of the layer."""

_MOST_AT_ONCE = 500
"""The messages that one statement sends."""

_POLLER_LEASE = "10 seconds"
"""A poller that stood still for longer has missed messages."""

Sent = asyncio.Future[bool]

_FAILURES = (DatabaseError, DatabaseUnavailable, TimeoutError)


class Layer(Protocol):
    """The part of PostgresLayer that holds its configuration."""

    listen_url: str
    poll_seconds: float
    prefix: str
    timeout_seconds: float

    def make_database(self) -> Database:
        """Return the threads in which one event loop uses the database."""

    def serialize(self, message: Message) -> bytes:
        """Return a message as bytes."""


class NotifyTransport:
    """
    The connections of one event loop to PostgreSQL.

    All processes listen on one channel and ignore messages for names that they do
    not read: a group costs PostgreSQL nothing to join or to leave. Messages that are
    sent while a statement runs are sent together by the next one.
    """

    def __init__(self, layer: Layer, receiver: Receiver) -> None:
        self._layer = layer
        self._receiver = receiver
        self._channel = f"{CHANNEL}{layer.prefix}"
        self._losses = Losses(self._send_gap, _FAILURES)
        self._is_listening = False
        self._poller_id = os.urandom(16).hex()
        self._position = 0
        self._waiting: list[tuple[str, Sent]] = []
        self._is_sending = False
        self._tasks = BackgroundTasks()
        self._prepare()

    def _prepare(self) -> None:
        """Make what flush() has closed; it connects when it is used."""
        self._database = self._layer.make_database()
        self._listener = Listener(
            (self._channel,),
            name="The channel layer",
            database=self._database,
            on_message=self._take,
            on_return=self._on_return,
            url=self._layer.listen_url,
            timeout_seconds=self._layer.timeout_seconds,
            poll=self._poll,
        )

    def has(self, name: str) -> bool:
        return self._is_listening

    def carries(self, name: str) -> bool:
        return self._listener.is_subscribed

    async def subscribe(self, name: str) -> None:
        """Listen, which the first name begins."""
        self._is_listening = True
        with contextlib.suppress(TimeoutError):
            async with deadline(self._layer.timeout_seconds):
                await self._listener.wait()

    async def unsubscribe(self, name: str) -> None:
        """Do nothing: the channel of PostgreSQL is that of all names."""

    def unsubscribe_soon(self, name: str) -> None:
        """Do nothing: the channel of PostgreSQL is that of all names."""

    async def publish(self, name: str, payload: bytes) -> bool:
        """Send a message; return False, and count it, if PostgreSQL is away."""
        is_sent = False
        if not self._losses.is_away:
            future = asyncio.get_running_loop().create_future()
            self._waiting.append((f"{name} {payload.decode()}", future))
            if not self._is_sending:
                self._is_sending = True
                self._tasks.start(self._send_waiting(), "The layer sends")
            is_sent = await future
        if not is_sent:
            self._losses.add(name)
        return is_sent

    async def flush(self) -> None:
        """Close the connections; they are opened again when they are needed."""
        await self._tasks.stop()
        await self._losses.flush()
        await self._listener.close()
        self._is_listening = False
        _answer(self._waiting, is_sent=False)
        self._waiting.clear()
        await self._database.close()
        self._prepare()

    async def _send_waiting(self) -> None:
        try:
            while self._waiting:
                batch = self._waiting[:_MOST_AT_ONCE]
                del self._waiting[:_MOST_AT_ONCE]
                await self._send_batch(batch)
        finally:
            self._is_sending = False

    async def _send_batch(self, batch: Sequence[tuple[str, Sent]]) -> None:
        is_sent = False
        try:
            # Each batch would wait again for a PostgreSQL that is away.
            if not self._losses.is_away:
                await self._send([text for text, _ in batch])
                is_sent = True
        except _FAILURES as exc:
            self._listener.on_failure(exc)
            self._losses.begin_outage()
        finally:
            _answer(batch, is_sent=is_sent)

    async def _send(self, texts: Sequence[str]) -> None:
        """
        Send messages in one statement, again where the connection had broken before.

        Raises:
            DatabaseError, DatabaseUnavailable, TimeoutError: they may not be sent.
        """
        # NOTIFY sends equal messages of a transaction once.
        numbered = [f"{number} {text}" for number, text in enumerate(texts)]
        async with deadline(self._layer.timeout_seconds):
            try:
                await self._database.run_briefly(_publish, self._channel, numbered)
            except DatabaseUnavailable:
                await self._database.run_briefly(_publish, self._channel, numbered)

    async def _send_gap(self, name: str, missed: int) -> None:
        gap = self._layer.serialize({"type": GAP, "missed": missed})
        await self._send([f"{name} {gap.decode()}"])

    def _take(self, channel: str, text: str) -> None:
        _, _, message = text.partition(" ")
        name, _, payload = message.partition(" ")
        if self._receiver.is_received(name):
            self._receiver.deliver(name, payload.encode())

    def _on_return(self) -> None:
        self._losses.on_return()
        self._receiver.on_return(self)

    async def _poll(self) -> bool:
        """
        Read the rows of messages; return True if those before are missing.

        Raises:
            TimeoutError: the database did not answer.
        """
        try:
            async with deadline(self._layer.timeout_seconds):
                rows = await self._database.run_briefly(
                    _read_after, self._poller_id, self._channel, self._position
                )
        except (DatabaseError, DatabaseUnavailable) as exc:
            raise TimeoutError(str(exc)) from exc
        is_new = False
        for message_id, text in rows:
            self._position = message_id
            if text is None:
                is_new = True
            else:
                self._listener.hand_on(self._channel, text)
        if not rows:
            await asyncio.sleep(self._layer.poll_seconds)
        return is_new


def _answer(batch: Sequence[tuple[str, Sent]], *, is_sent: bool) -> None:
    for _, future in batch:
        # The task that waited may have been cancelled.
        if not future.done():
            future.set_result(is_sent)


def _publish(channel: str, texts: Sequence[str]) -> None:
    with get_connection().cursor() as cursor:
        cursor.execute(
            "SELECT connections_layer_publish_1(%s, %s)", (channel, list(texts))
        )


def _read_after(poller_id: str, channel: str, position: int) -> list[Any]:
    with get_connection().cursor() as cursor:
        cursor.execute(
            "SELECT * FROM connections_layer_poll_1(%s, %s, %s, %s)",
            (poller_id, channel, position, _POLLER_LEASE),
        )
        rows: list[Any] = cursor.fetchall()
    return rows
