"""Send committed entries to subscribers: in memory on this node, by hints elsewhere."""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

from connections.background import BackgroundTasks
from connections.bus import Bus
from connections.exceptions import DatabaseUnavailable
from connections.passes import Passes
from connections.slices import Slices
from connections.storage.database import Database
from sessions_history import hints
from sessions_history.beginnings import Beginning
from sessions_history.chain import Mark, is_newer
from sessions_history.entries import Committed, Entry, Growth
from sessions_history.epochs import renew_epoch
from sessions_history.reads import (
    Position,
    find_resumed,
    has_commits,
    read_entries_at,
    read_positions,
)
from sessions_history.relays import make_relay
from sessions_history.tails import KnownPosition, Tail

logger = logging.getLogger(__name__)

_SLICE_SECONDS = 0.005

_HINT_CHARACTERS = 32_000
"""Entries larger than this are not sent over Redis; nodes read them."""


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
        bus: Bus | None = None,
    ) -> None:
        self._database = database
        self._passes = passes
        self._node_id = node_id
        self._tails: dict[str, Tail] = {}
        self._tasks = BackgroundTasks()
        # The streams of this node that a client may cancel elsewhere, by session.
        self._watched: dict[str, dict[int, Callable[[int], None]]] = {}
        self.listeners: dict[str, Callable[[str, Any], object]] = {}
        """Called with a session and an event of another node, by kind of event."""
        self._has_returned = asyncio.Event()
        self._doubted: set[Tail] = set()
        self._relay = make_relay(
            bus,
            redis_url,
            node_id=node_id,
            on_message=self._receive,
            on_return=self._has_returned.set,
        )

    def find_or_make(self, session_id: str) -> Tail:
        """Return the tail of a session; this node's commits go into it from now."""
        tail = self._tails.get(session_id)
        if tail is None:
            tail = Tail(session_id, self._passes, on_doubt=self._check_soon)
            self._tails[session_id] = tail
        return tail

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
        self._unsubscribe_soon(tail.session_id)

    def watch(
        self, session_id: str, offset: int, on_change: Callable[[int], None]
    ) -> None:
        """
        Watch the session of a stream of this node.

        Calls back with the offset of each entry that another node may have ended,
        which can be that of the stream.
        """
        self._watched.setdefault(session_id, {})[offset] = on_change
        self._tasks.start(self.listen(session_id), "Listening for cancellations")

    def unwatch(self, session_id: str, offset: int) -> None:
        """Undo watch()."""
        watched = self._watched[session_id]
        del watched[offset]
        if not watched:
            del self._watched[session_id]
            self._unsubscribe_soon(session_id)

    async def flush(self) -> None:
        """Wait until the hints so far are sent, or dropped."""
        if self._relay is not None:
            await self._relay.flush()

    def send_appended(self, session_id: str, committed: Committed) -> None:
        """Send committed entries to the subscribers of all nodes."""
        epoch, entries = committed.epoch, committed.entries
        tail = self._find(session_id, epoch)
        if tail is not None:
            tail.take_appended(entries, committed.previous)
        if self._relay is None or self._relay.is_alone:
            return
        size = sum(len(entry.data) + len(entry.parts) for entry in entries)
        message: dict[str, Any] = {"epoch": epoch, "last": entries[-1].offset}
        message["first"] = committed.offset
        if size <= _HINT_CHARACTERS:
            message |= hints.pack(entries)
        message |= hints.pack_commit(entries, committed.previous)
        self._publish(session_id, message)

    def send_growth(self, session_id: str, entry: Entry, text: str, parts: str) -> None:
        """Send uncommitted content to the subscribers of this node."""
        tail = self._tails.get(session_id)
        if tail is not None:
            tail.grow_unwritten(entry, text, parts)

    def send_chunks(self, session_id: str, growth: Growth, at: tuple[int, int]) -> None:
        """Send the other nodes committed chunks; this node has them already."""
        message = hints.pack_growth(growth, at)
        if len(growth.text) + len(growth.parts) > _HINT_CHARACTERS:
            message = {"changed": growth.offset}
        self._publish(session_id, message)

    def send_rewritten(
        self, session_id: str, entry: Entry, previous: str | None = None
    ) -> None:
        """
        Send the committed text or state of a streaming entry.

        A commit with a mark names the previous one, or "" if there was none.
        """
        tail = self._tails.get(session_id)
        if tail is not None:
            if previous is not None:
                tail.learn(entry.mark, Mark.parse(previous))
            tail.take(entry)
        message: dict[str, Any] = {"changed": entry.offset}
        if len(entry.data) + len(entry.parts) <= _HINT_CHARACTERS:
            message = hints.pack([entry])
        if previous is not None:
            message |= hints.pack_commit([entry], previous)
        self._publish(session_id, message)

    def send_changed(self, session_id: str, offset: int) -> None:
        """Make all nodes read an entry again."""
        tail = self._tails.get(session_id)
        if tail is not None:
            self._tasks.start(self._read_again(tail, [offset]), "Reading an entry")
        self._publish(session_id, {"changed": offset})

    def send_deleted(self, session_id: str) -> None:
        """Make the subscribers of a deleted session attach anew, on all nodes."""
        # A node that is attached to another epoch does so, also for a hint.
        self._find(session_id, "deleted")
        self._publish(session_id, {"epoch": "deleted"})

    def send_event(self, session_id: str, kind: str, event: Any) -> None:
        """Send the other nodes an event; nodes of older releases ignore it."""
        self._publish(session_id, {kind: event})

    def send_missed_end(self, session_id: str, offset: int) -> None:
        """
        Make all nodes read an entry that ended without a word to this node.

        Another node ended it, or a commit of this node whose reply was lost.
        """
        tail = self._tails.get(session_id)
        if tail is None or offset in tail.growing:
            self.send_changed(session_id, offset)

    async def check(self) -> bool:
        """
        Read the positions of the attached sessions, and catch up.

        Returns False if a session failed; the others have caught up.

        Raises:
            DatabaseUnavailable: nothing was read; the next check tries again.
        """
        self._has_returned.clear()
        known = {tail: tail.get_known() for tail in self._tails.values() if tail.epoch}
        if not known:
            return True
        positions, streaming = await self._database.read(
            read_positions, [tail.session_id for tail in known]
        )
        name = "The check of a session's position"
        is_whole, slices = True, Slices(_SLICE_SECONDS)
        for tail, before in known.items():
            is_whole &= await self._passes.attempt_work(
                name,
                self._catch_up(
                    tail,
                    before,
                    positions.get(tail.session_id),
                    streaming.get(tail.session_id, {}),
                ),
            )
            await slices.check()
        return self._passes.finish(name, is_whole=is_whole)

    async def _catch_up(
        self,
        tail: Tail,
        before: KnownPosition,
        position: Position | None,
        still_open: Mapping[int, Entry],
    ) -> None:
        """Bring one tail to its position in the log."""
        if position is None and before.is_provisional:
            return
        if position is None or position.epoch != tail.epoch:
            self.reset(tail)
            return
        marks = [mark for _, mark in before.commits]
        is_kept = position.last_offset >= before.last_offset
        if is_kept and any(mark != position.mark for mark in marks):
            is_kept = await self._database.read(has_commits, position, marks)
        if not is_kept:
            await self._report_loss(tail, before.last_offset)
            return
        # The commits after the oldest of them may have brought no hints.
        oldest = min(marks, key=lambda mark: mark.number, default=None)
        if is_newer(position.mark, oldest):
            await self._read_resumed(tail, oldest, before.last_offset)
        tail.confirm(before, position)
        for offset, entry in still_open.items():
            if offset in tail.growing or entry.resumption:
                tail.take(entry)
        ended = tail.growing.keys() - still_open.keys()
        if ended:
            await self._read_again(tail, ended)
        tail.move_to(position.last_offset)

    async def _read_resumed(self, tail: Tail, mark: Mark | None, up_to: int) -> None:
        """Read the entries that were resumed by commits of which no hint came."""
        offsets = await self._database.read(find_resumed, tail.session_id, mark, up_to)
        if offsets:
            await self._read_again(tail, offsets)

    def _check_soon(self, tail: Tail) -> None:
        """Compare a tail in doubt with the log, instead of at the next check."""
        if tail.epoch and tail not in self._doubted:
            self._doubted.add(tail)
            self._tasks.start(self._check_doubted(tail), "The check of a log in doubt")

    async def _check_doubted(self, tail: Tail) -> None:
        session_id = tail.session_id
        try:
            while tail.is_doubted and not tail.is_reset:
                before = tail.get_known()
                read = self._database.read
                positions, streaming = await read(read_positions, [session_id])
                position = positions.get(session_id)
                still_open = streaming.get(session_id, {})
                await self._catch_up(tail, before, position, still_open)
        except DatabaseUnavailable as exc:
            logger.debug("The next check compares %s: %s", session_id, exc)
        finally:
            self._doubted.discard(tail)

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
            self._unsubscribe_soon(tail.session_id)
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
        if self._relay is not None and not self._relay.is_alone:
            self._relay.publish(session_id, {"node": self._node_id, **message})

    def _receive(self, session_id: str, message: dict[str, Any]) -> None:
        """Apply a hint of another node about a session."""
        if message.get("node") == self._node_id:
            return
        for kind in self.listeners.keys() & message.keys():
            self.listeners[kind](session_id, message[kind])
            return
        entries = hints.unpack(message)
        ended = [entry.offset for entry in entries if not entry.is_streaming]
        if "changed" in message:
            ended.append(message["changed"])
        for on_change in list(self._watched.get(session_id, {}).values()):
            for offset in ended:
                on_change(offset)
        tail = self._find(session_id, message.get("epoch"))
        if tail is None:
            return
        if "commit" in message:
            tail.learn(*hints.unpack_commit(message))
        for entry in entries:
            tail.take(entry)
        for name, extend in (("chunk", tail.extend), ("changes", tail.extend_parts)):
            if name in message and not extend(*message[name]):
                reading = self._read_again(tail, [message[name][0]])
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

    def _unsubscribe_soon(self, session_id: str) -> None:
        if self._relay is not None:
            self._tasks.start(self._unsubscribe(session_id), "Unsubscribing")

    async def _unsubscribe(self, session_id: str) -> None:
        is_needed = session_id in self._tails or session_id in self._watched
        if self._relay is not None and not is_needed:
            await self._relay.leave(session_id)
