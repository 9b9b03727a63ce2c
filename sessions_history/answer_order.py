"""Give the answers of a session one after the other."""

import asyncio

from connections.exceptions import DatabaseUnavailable
from connections.storage.database import Database
from sessions_history import work


class AnswerOrder:
    """
    The answers of one node that wait for earlier ones of their sessions.

    The database knows which answers are open, on every node. A notification makes
    a waiting answer read it again; the check of work sends those that were missed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[str, set[asyncio.Event]] = {}

    @property
    def has_waiting(self) -> bool:
        """True while an answer waits."""
        return bool(self._waiting)

    async def wait(self, session_id: str, offset: int) -> None:
        """Wait until no earlier answer of a session is open."""
        event = asyncio.Event()
        waiting = self._waiting.setdefault(session_id, set())
        waiting.add(event)
        try:
            while await self._is_blocked(session_id, offset):
                await event.wait()
                event.clear()
        finally:
            waiting.remove(event)
            if not waiting:
                del self._waiting[session_id]

    def notify(self, session_id: str) -> None:
        """Make the waiting answers of a session read whether they may begin."""
        for event in self._waiting.get(session_id, ()):
            event.set()

    async def _is_blocked(self, session_id: str, offset: int) -> bool:
        try:
            return await self._database.read(work.is_blocked, session_id, offset)
        except DatabaseUnavailable:
            # The check of work notifies it once the database is back.
            return True
