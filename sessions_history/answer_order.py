"""Give the answers of a session one after the other."""

import asyncio

from connections.exceptions import DatabaseUnavailable
from connections.storage.database import Database
from sessions_history import work
from sessions_history.streams import Stream


class AnswerOrder:
    """
    The answers of one node that wait for earlier ones of their sessions.

    The database knows which answers are open, on every node. A notification makes
    a waiting answer read it again; the check of work sends those that were missed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[str, dict[Stream, asyncio.Event]] = {}
        self.blocked: set[Stream] = set()
        """The streams of those whose turn has not come, as far as is known."""

    @property
    def streams(self) -> set[Stream]:
        """The streams of the answers that wait, or read whether they may begin."""
        return {one for waiting in self._waiting.values() for one in waiting}

    async def wait(self, stream: Stream) -> None:
        """Wait until no earlier answer of the session of a stream is open."""
        session_id, event = stream.session_id, asyncio.Event()
        waiting = self._waiting.setdefault(session_id, {})
        waiting[stream] = event
        try:
            while await self._is_blocked(session_id, stream.offset):
                if not event.is_set():
                    self.blocked.add(stream)
                await event.wait()
                event.clear()
        finally:
            self.blocked.discard(stream)
            del waiting[stream]
            if not waiting:
                del self._waiting[session_id]

    def notify(self, session_id: str) -> None:
        """Make the waiting answers of a session read whether they may begin."""
        for stream, event in self._waiting.get(session_id, {}).items():
            event.set()
            self.blocked.discard(stream)

    async def _is_blocked(self, session_id: str, offset: int) -> bool:
        try:
            return await self._database.read(work.is_blocked, session_id, offset)
        except DatabaseUnavailable:
            # The check of work notifies it once the database is back.
            return True
