"""Open each stream of a key once: a later attempt resumes its entry, or is refused."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from sessions_history.entries import Committed, NewEntry, Request, Resume
from sessions_history.exceptions import StreamBusy
from sessions_history.models import KEY_LENGTH
from sessions_history.payloads import digest

_RETRY_SECONDS = 0.25

_PREFIX = ":"
"""It is part of no message id, so that no client uses the key of a producer."""

AppendOne = Callable[[str, NewEntry, str, str], Awaitable[Committed]]
Submit = Callable[[Request], Awaitable[Committed]]


def make_append_key(key: str) -> str:
    """
    Return the key of a producer as it is stored.

    Raises:
        ValueError: it is too long, or holds characters that cannot be printed.
    """
    most = KEY_LENGTH - len(_PREFIX)
    if len(key) > most or not key.isprintable():
        raise ValueError(f"key is {key!r:.50}, not 1 to {most} printable characters")
    return _PREFIX + key


class KeyedStreams:
    """The keys of the streams that this process opens or has open."""

    def __init__(self, busy_seconds: float, append: AppendOne, submit: Submit) -> None:
        self._busy_seconds = busy_seconds
        self._append = append
        self._submit = submit
        self._taken: set[tuple[str, str]] = set()

    @asynccontextmanager
    async def take(
        self, session_id: str, entry: NewEntry, key: str
    ) -> AsyncIterator[Committed]:
        """
        Append a streaming entry, or resume that of its key.

        Waits for a lease if another task has the stream: that task may be dead.

        Raises:
            ValueError: the key cannot be used.
            KeyReused: the key was used for something else.
            StreamFinished: the entry of the key is done or cancelled.
            StreamBusy: another task writes the stream.
        """
        if not key:
            yield await self._append(session_id, entry, "", "")
            return
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._busy_seconds
        taken = (session_id, key)
        while taken in self._taken:
            if loop.time() > give_up_at:
                raise StreamBusy
            await asyncio.sleep(_RETRY_SECONDS)
        self._taken.add(taken)
        try:
            made_of = digest(["stream", entry.kind])
            committed = await self._append(session_id, entry, key, made_of)
            if not committed.entries:
                resume = Resume(session_id=session_id, offset=committed.offset)
                committed = await self._resume(resume, give_up_at)
            yield committed
        finally:
            self._taken.discard(taken)

    async def _resume(self, resume: Resume, give_up_at: float) -> Committed:
        loop = asyncio.get_running_loop()
        while True:
            try:
                return await self._submit(resume)
            except StreamBusy:
                if loop.time() > give_up_at:
                    raise
            await asyncio.sleep(_RETRY_SECONDS)
