"""Tells connections what was committed: on this node in memory, elsewhere by Redis."""

import asyncio
import logging
from collections.abc import Collection, Coroutine, Sequence
from datetime import datetime
from typing import Any

from connections.exceptions import DatabaseUnavailable
from connections.storage.database import Database
from sessions_history.entries import Entry
from sessions_history.feeds import Feed
from sessions_history.reads import read_entries_at, read_positions

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
        self._feeds: dict[str, Feed] = {}
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

    def find_or_make(self, session_id: str) -> Feed:
        """Return the feed of a session; what this node commits from now is in it."""
        return self._feeds.setdefault(session_id, Feed(session_id))

    async def listen(self, session_id: str) -> None:
        """Hear of what other nodes commit, from now on."""
        if self._relay is not None:
            await self._relay.join(session_id)

    def leave(self, feed: Feed) -> None:
        """Drop the feed of a session that nobody follows any more."""
        if feed.followers or self._feeds.get(feed.session_id) is not feed:
            return
        del self._feeds[feed.session_id]
        if self._relay is not None:
            self._start(self._stop_hearing(feed.session_id))

    def tell_appended(
        self, session_id: str, epoch: str, entries: Sequence[Entry]
    ) -> None:
        """Tell of entries that were committed."""
        feed = self._find(session_id, epoch)
        if feed is not None:
            for entry in entries:
                feed.take(entry)
        if self._relay is None:
            return
        size = sum(len(entry.data) for entry in entries)
        message: dict[str, Any] = {"epoch": epoch, "last": entries[-1].offset}
        if size <= _HINT_CHARACTERS:
            message["entries"] = [_pack(entry) for entry in entries]
        self._publish(session_id, message)

    def tell_growth(self, session_id: str, entry: Entry, text: str) -> None:
        """Tell connections of this node of a text that is not committed yet."""
        feed = self._feeds.get(session_id)
        if feed is not None:
            feed.grow(entry, text)

    def tell_rewritten(self, session_id: str, entry: Entry) -> None:
        """Tell of a streaming entry whose text or state was committed."""
        feed = self._feeds.get(session_id)
        if feed is not None:
            feed.take(entry)
        if len(entry.data) <= _HINT_CHARACTERS:
            self._publish(session_id, {"entries": [_pack(entry)]})
        else:
            self._publish(session_id, {"changed": entry.offset})

    def tell_changed(self, session_id: str, offset: int) -> None:
        """Tell of an entry that has to be read again."""
        feed = self._feeds.get(session_id)
        if feed is not None:
            self._start(self._read_again(feed, [offset]))
        self._publish(session_id, {"changed": offset})

    async def check(self) -> None:
        """
        Read where the attached sessions stand, and catch up where one is behind.

        Raises:
            DatabaseUnavailable: nothing is known; the next check looks again.
        """
        self._has_returned.clear()
        known = {feed: feed.last_offset for feed in self._feeds.values() if feed.epoch}
        if not known:
            return
        positions, streaming = await self._database.read(
            read_positions, [feed.session_id for feed in known]
        )
        for feed, last_offset in known.items():
            position = positions.get(feed.session_id)
            if (
                position is None
                or position.epoch != feed.epoch
                or position.last_offset < last_offset
            ):
                self.reset(feed)
                continue
            still_open = streaming.get(feed.session_id, {})
            for offset, entry in still_open.items():
                if offset in feed.growing:
                    feed.take(entry)
            ended = feed.growing.keys() - still_open.keys()
            if ended:
                await self._read_again(feed, ended)
            feed.move_to(position.last_offset)

    def reset(self, feed: Feed) -> None:
        """Have those who follow a feed begin anew: the log is not the same."""
        if self._feeds.get(feed.session_id) is feed:
            del self._feeds[feed.session_id]
            self._start(self._stop_hearing(feed.session_id))
        feed.is_reset = True
        feed.tell()

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

    def _find(self, session_id: str, epoch: str | None) -> Feed | None:
        """Return the feed of a session, unless its log is another one by now."""
        feed = self._feeds.get(session_id)
        if feed is not None and feed.epoch and epoch and feed.epoch != epoch:
            self.reset(feed)
            return None
        return feed

    def _publish(self, session_id: str, message: dict[str, Any]) -> None:
        if self._relay is not None:
            self._relay.publish(session_id, {"node": self._node_id, **message})

    def _hear(self, session_id: str, message: dict[str, Any]) -> None:
        """Take in what another node says of a session."""
        if message.get("node") == self._node_id:
            return
        feed = self._find(session_id, message.get("epoch"))
        if feed is None:
            return
        for packed in message.get("entries", ()):
            feed.take(_unpack(packed))
        if "last" in message:
            feed.move_to(message["last"])
        if "changed" in message:
            self._start(self._read_again(feed, [message["changed"]]))

    async def _read_again(self, feed: Feed, offsets: Collection[int]) -> None:
        try:
            entries = await self._database.read(
                read_entries_at, feed.session_id, list(offsets)
            )
        except DatabaseUnavailable as exc:
            logger.debug("The next check reads %s: %s", feed.session_id, exc)
            return
        for entry in entries:
            feed.take(entry)

    async def _stop_hearing(self, session_id: str) -> None:
        if self._relay is not None and session_id not in self._feeds:
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
