"""Tells connections what was committed: on this node in memory, elsewhere by Redis."""

import asyncio
import logging
from collections.abc import Collection, Coroutine, Sequence
from datetime import datetime
from typing import Any

from connections.exceptions import DatabaseUnavailable
from connections.storage.database import Database
from sessions_history.entries import Entry
from sessions_history.reads import read_entries_at, read_positions
from sessions_history.tails import Tail

logger = logging.getLogger(__name__)

_HINT_CHARACTERS = 32_000
"""Entries larger than this are not sent over Redis; nodes read them."""


class FanOut:
    """
    The feeds of the sessions that connections of this node are attached to.

    Messages between nodes are hints, the log is the truth: what they leave out
    is found at the next check of positions.
    """

    def __init__(
        self, database: Database, *, node_id: str, redis_url: str | None
    ) -> None:
        self._database = database
        self._node_id = node_id
        self._tails: dict[str, Tail] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_returned = asyncio.Event()
        self._relay = None
        if redis_url:
            from sessions_history.redis_relay import Relay

            self._relay = Relay(
                redis_url,
                on_message=self._hear,
                on_return=self._has_returned.set,
            )

    def find_or_make(self, session_id: str) -> Tail:
        """Return the feed of a session; what this node commits from now is in it."""
        return self._tails.setdefault(session_id, Tail(session_id))

    async def listen(self, session_id: str) -> None:
        """Hear of what other nodes commit, from now on."""
        if self._relay is not None:
            await self._relay.join(session_id)

    def leave(self, tail: Tail) -> None:
        """Drop the feed of a session that nobody follows any more."""
        if tail.followers or self._tails.get(tail.session_id) is not tail:
            return
        del self._tails[tail.session_id]
        if self._relay is not None:
            self._start(self._stop_hearing(tail.session_id))

    def tell_appended(
        self, session_id: str, epoch: str, entries: Sequence[Entry]
    ) -> None:
        """Tell of entries that were committed."""
        tail = self._find(session_id, epoch)
        if tail is not None:
            for entry in entries:
                tail.take(entry)
        if self._relay is None:
            return
        size = sum(len(entry.data) for entry in entries)
        message: dict[str, Any] = {"epoch": epoch, "last": entries[-1].offset}
        if size <= _HINT_CHARACTERS:
            message["entries"] = [_pack(entry) for entry in entries]
        self._publish(session_id, message)

    def tell_growth(self, session_id: str, entry: Entry, text: str) -> None:
        """Tell connections of this node of a text that is not committed yet."""
        tail = self._tails.get(session_id)
        if tail is not None:
            tail.grow(entry, text)

    def tell_rewritten(self, session_id: str, entry: Entry) -> None:
        """Tell of a streaming entry whose text or state was committed."""
        tail = self._tails.get(session_id)
        if tail is not None:
            tail.take(entry)
        if len(entry.data) <= _HINT_CHARACTERS:
            self._publish(session_id, {"entries": [_pack(entry)]})
        else:
            self._publish(session_id, {"changed": entry.offset})

    def tell_changed(self, session_id: str, offset: int) -> None:
        """Tell of an entry that has to be read again."""
        tail = self._tails.get(session_id)
        if tail is not None:
            self._start(self._read_again(tail, [offset]))
        self._publish(session_id, {"changed": offset})

    async def check(self) -> None:
        """
        Read where the attached sessions stand, and catch up where one is behind.

        Raises:
            DatabaseUnavailable: nothing is known; the next check looks again.
        """
        self._has_returned.clear()
        known = {tail: tail.last_offset for tail in self._tails.values() if tail.epoch}
        if not known:
            return
        positions, streaming = await self._database.read(
            read_positions, [tail.session_id for tail in known]
        )
        for tail, last_offset in known.items():
            position = positions.get(tail.session_id)
            if (
                position is None
                or position.epoch != tail.epoch
                or position.last_offset < last_offset
            ):
                self.reset(tail)
                continue
            still_open = streaming.get(tail.session_id, {})
            for offset, entry in still_open.items():
                if offset in tail.growing:
                    tail.take(entry)
            ended = tail.growing.keys() - still_open.keys()
            if ended:
                await self._read_again(tail, ended)
            tail.move_to(position.last_offset)

    def reset(self, tail: Tail) -> None:
        """Have those who follow a feed begin anew: the log is not the same."""
        if self._tails.get(tail.session_id) is tail:
            del self._tails[tail.session_id]
            self._start(self._stop_hearing(tail.session_id))
        tail.is_reset = True
        tail.notify()

    async def wait(self, seconds: float) -> None:
        """Wait until the next check is due: after some seconds, or an outage."""
        try:
            async with asyncio.timeout(seconds):
                await self._has_returned.wait()
        except TimeoutError:
            return

    async def close(self) -> None:
        """Let go of Redis."""
        for task in self._tasks:
            task.cancel()
        if self._relay is not None:
            await self._relay.close()

    def _find(self, session_id: str, epoch: str | None) -> Tail | None:
        """Return the feed of a session, unless its log is another one by now."""
        tail = self._tails.get(session_id)
        if tail is not None and tail.epoch and epoch and tail.epoch != epoch:
            self.reset(tail)
            return None
        return tail

    def _publish(self, session_id: str, message: dict[str, Any]) -> None:
        if self._relay is not None:
            self._relay.publish(session_id, {"node": self._node_id, **message})

    def _hear(self, session_id: str, message: dict[str, Any]) -> None:
        """Take in what another node says of a session."""
        if message.get("node") == self._node_id:
            return
        tail = self._find(session_id, message.get("epoch"))
        if tail is None:
            return
        for packed in message.get("entries", ()):
            tail.take(_unpack(packed))
        if "last" in message:
            tail.move_to(message["last"])
        if "changed" in message:
            self._start(self._read_again(tail, [message["changed"]]))

    async def _read_again(self, tail: Tail, offsets: Collection[int]) -> None:
        try:
            entries = await self._database.read(
                read_entries_at, tail.session_id, list(offsets)
            )
        except DatabaseUnavailable as exc:
            logger.debug("The next check reads %s: %s", tail.session_id, exc)
            return
        for entry in entries:
            tail.take(entry)

    async def _stop_hearing(self, session_id: str) -> None:
        if self._relay is not None and session_id not in self._tails:
            await self._relay.leave(session_id)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _pack(entry: Entry) -> list[Any]:
    return [
        entry.offset,
        entry.kind,
        entry.sender,
        entry.at.isoformat(),
        entry.data,
        entry.state,
    ]


def _unpack(packed: list[Any]) -> Entry:
    offset, kind, sender, at, text, state = packed
    return Entry(
        offset=offset,
        kind=kind,
        sender=sender,
        at=datetime.fromisoformat(at),
        data=text,
        state=state,
    )
