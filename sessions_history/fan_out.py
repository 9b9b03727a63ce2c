"""Send committed entries to subscribers: in memory on this node, by Redis elsewhere."""

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from connections.background import BackgroundTasks
from connections.exceptions import DatabaseUnavailable
from connections.passes import Passes
from connections.redis.encryption import get_encryption_keys, make_cipher
from connections.storage.database import Database
from sessions_history.beginnings import Beginning
from sessions_history.chain import Mark, compare
from sessions_history.entries import Entry
from sessions_history.epochs import renew_epoch
from sessions_history.reads import (
    Position,
    has_commit,
    read_entries_at,
    read_positions,
)
from sessions_history.tails import Tail

logger = logging.getLogger(__name__)

_HINT_CHARACTERS = 32_000
"""Entries larger than this are not sent over Redis; nodes read them."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What a tail knew before the positions were read: it may move on meanwhile."""

    last_offset: int
    mark: Mark | None
    is_provisional: bool


class FanOut:
    """
    The tails of the sessions with subscribers on this node.

    Messages between nodes are hints; the log is the truth. The next check of
    positions finds what the hints left out.
    """

    def __init__(
        self,
        database: Database,
        *,
        node_id: str,
        redis_url: str | None,
        passes: Passes,
    ) -> None:
        self._database = database
        self._passes = passes
        self._node_id = node_id
        self._tails: dict[str, Tail] = {}
        self._tasks = BackgroundTasks()
        self._has_returned = asyncio.Event()
        self._relay = None
        if redis_url:
            from sessions_history.redis_relay import Relay

            self._relay = Relay(
                redis_url,
                on_message=self._receive,
                on_return=self._has_returned.set,
                cipher=make_cipher(get_encryption_keys()),
            )

    def find_or_make(self, session_id: str) -> Tail:
        """Return the tail of a session; this node's commits go into it from now."""
        return self._tails.setdefault(session_id, Tail(session_id, self._passes))

    def find_beginning(self, session_id: str) -> Beginning | None:
        """Return a session with subscribers here that has no entry yet."""
        tail = self._tails.get(session_id)
        return tail.beginning if tail is not None else None

    async def listen(self, session_id: str) -> None:
        """Receive the commits of other nodes from now on."""
        if self._relay is not None:
            await self._relay.join(session_id)

    def leave(self, tail: Tail) -> None:
        """Drop the tail of a session without subscribers."""
        if tail.subscribers or self._tails.get(tail.session_id) is not tail:
            return
        del self._tails[tail.session_id]
        if self._relay is not None:
            self._tasks.start(self._unsubscribe(tail.session_id), "Unsubscribing")

    def send_appended(
        self, session_id: str, epoch: str, entries: Sequence[Entry]
    ) -> None:
        """Send committed entries to the subscribers of all nodes."""
        tail = self._find(session_id, epoch)
        if tail is not None and entries[0].offset <= tail.acked_offset:
            # This node acknowledged these offsets before, for other entries.
            loss = self._report_loss(tail, tail.acked_offset)
            self._tasks.start(loss, "The renewal of an epoch")
            return
        if tail is not None:
            tail.acked_offset = entries[-1].offset
            for entry in entries:
                tail.take(entry)
        if self._relay is None:
            return
        size = sum(len(entry.data) for entry in entries)
        message: dict[str, Any] = {"epoch": epoch, "last": entries[-1].offset}
        if size <= _HINT_CHARACTERS:
            message |= _pack(entries)
        self._publish(session_id, message)

    def send_growth(self, session_id: str, entry: Entry, text: str) -> None:
        """Send an uncommitted text to the subscribers of this node."""
        tail = self._tails.get(session_id)
        if tail is not None:
            tail.grow(entry, text)

    def send_chunk(self, session_id: str, offset: int, at_char: int, text: str) -> None:
        """Send the other nodes a committed chunk; this node has its text already."""
        if len(text) <= _HINT_CHARACTERS:
            self._publish(session_id, {"chunk": [offset, at_char, text]})
        else:
            self._publish(session_id, {"changed": offset})

    def send_rewritten(self, session_id: str, entry: Entry) -> None:
        """Send the committed text or state of a streaming entry."""
        tail = self._tails.get(session_id)
        if tail is not None:
            tail.take(entry)
        if len(entry.data) <= _HINT_CHARACTERS:
            self._publish(session_id, _pack([entry]))
        else:
            self._publish(session_id, {"changed": entry.offset})

    def send_changed(self, session_id: str, offset: int) -> None:
        """Make all nodes read an entry again."""
        tail = self._tails.get(session_id)
        if tail is not None:
            self._tasks.start(self._read_again(tail, [offset]), "Reading an entry")
        self._publish(session_id, {"changed": offset})

    async def check(self) -> bool:
        """
        Read the positions of the attached sessions, and catch up.

        Returns False if a session failed; the others have caught up.

        Raises:
            DatabaseUnavailable: nothing was read; the next check tries again.
        """
        self._has_returned.clear()
        known = {
            tail: _Known(tail.last_offset, tail.mark, tail.beginning is not None)
            for tail in self._tails.values()
            if tail.epoch
        }
        if not known:
            return True
        positions, streaming = await self._database.read(
            read_positions, [tail.session_id for tail in known]
        )
        name = "The check of a session's position"
        results = [
            await self._passes.attempt_work(
                name,
                self._catch_up(
                    tail,
                    before,
                    positions.get(tail.session_id),
                    streaming.get(tail.session_id, {}),
                ),
            )
            for tail, before in known.items()
        ]
        return self._passes.finish(name, is_whole=all(results))

    async def _catch_up(
        self,
        tail: Tail,
        before: _Known,
        position: Position | None,
        still_open: Mapping[int, Entry],
    ) -> None:
        """Bring one tail to its position in the log."""
        if position is None and before.is_provisional:
            return
        if position is None or position.epoch != tail.epoch:
            self.reset(tail)
            return
        is_kept = compare(before.mark, position.mark)
        if is_kept is None:
            is_kept = await self._database.read(has_commit, position, before.mark)
        if not is_kept or position.last_offset < before.last_offset:
            await self._report_loss(tail, before.last_offset)
            return
        tail.learn(position.mark)
        for offset, entry in still_open.items():
            if offset in tail.growing:
                tail.take(entry)
        ended = tail.growing.keys() - still_open.keys()
        if ended:
            await self._read_again(tail, ended)
        tail.move_to(position.last_offset)

    async def _report_loss(self, tail: Tail, last_offset: int) -> None:
        """
        Begin a new epoch: the log has lost entries that clients have.

        A replica that lagged was promoted, or a backup restored. Without another
        epoch, the log could grow past a client's offset before the client returns.
        """
        epoch = tail.epoch or ""
        if await self._database.write(renew_epoch, tail.session_id, epoch):
            logger.error(
                "The log of %s went back in time: it lacks commits up to the offset %s,"
                " which were acknowledged; its epoch is renewed",
                tail.session_id,
                last_offset,
                extra={"event": "log_went_back"},
            )
        self.reset(tail)

    def reset(self, tail: Tail) -> None:
        """Make the subscribers of a tail attach anew: the log is another one."""
        if self._tails.get(tail.session_id) is tail:
            del self._tails[tail.session_id]
            self._tasks.start(self._unsubscribe(tail.session_id), "Unsubscribing")
        tail.is_reset = True
        tail.notify()

    async def wait(self, seconds: float) -> None:
        """Wait until the next check is due: after some seconds, or after an outage."""
        try:
            async with asyncio.timeout(seconds):
                await self._has_returned.wait()
        except TimeoutError:
            return

    async def close(self) -> None:
        """Stop the tasks and close the connections to Redis."""
        await self._tasks.stop()
        if self._relay is not None:
            await self._relay.close()

    def _find(self, session_id: str, epoch: str | None) -> Tail | None:
        """Return the tail of a session unless its log is another one by now."""
        tail = self._tails.get(session_id)
        if tail is not None and tail.epoch and epoch and tail.epoch != epoch:
            self.reset(tail)
            return None
        return tail

    def _publish(self, session_id: str, message: dict[str, Any]) -> None:
        if self._relay is not None:
            self._relay.publish(session_id, {"node": self._node_id, **message})

    def _receive(self, session_id: str, message: dict[str, Any]) -> None:
        """Apply a hint of another node about a session."""
        if message.get("node") == self._node_id:
            return
        tail = self._find(session_id, message.get("epoch"))
        if tail is None:
            return
        for entry in _unpack(message):
            tail.take(entry)
        if "chunk" in message:
            offset, at_char, text = message["chunk"]
            if not tail.extend(offset, at_char, text):
                reading = self._read_again(tail, [offset])
                self._tasks.start(reading, "Reading an entry")
        if "last" in message:
            tail.move_to(message["last"])
        if "changed" in message:
            reading = self._read_again(tail, [message["changed"]])
            self._tasks.start(reading, "Reading an entry")

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
        for offset in set(offsets) - {entry.offset for entry in entries}:
            tail.lose(offset)

    async def _unsubscribe(self, session_id: str) -> None:
        if self._relay is not None and session_id not in self._tails:
            await self._relay.leave(session_id)


def _pack(entries: Sequence[Entry]) -> dict[str, Any]:
    """Return entries as part of a hint; the previous release reads no chains."""
    packed = [
        [
            entry.offset,
            entry.kind,
            entry.sender,
            entry.at.isoformat(),
            entry.data,
            entry.state,
        ]
        for entry in entries
    ]
    return {"entries": packed, "chains": [entry.chain for entry in entries]}


def _unpack(message: Mapping[str, Any]) -> list[Entry]:
    """Return the entries of a hint."""
    packed = message.get("entries", ())
    chains = message.get("chains") or [""] * len(packed)
    return [
        Entry(
            offset=offset,
            kind=kind,
            sender=sender,
            at=datetime.fromisoformat(at),
            data=text,
            state=state,
            chain=chain,
        )
        for (offset, kind, sender, at, text, state), chain in zip(
            packed, chains, strict=True
        )
    ]
