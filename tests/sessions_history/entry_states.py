"""The states of entries, as the database has them."""

import asyncio

from connections.testing.waiting import scale
from sessions_history.models import HistoryEntry


async def read_state(session_id: str, offset: int) -> str:
    row = await HistoryEntry.objects.aget(session=session_id, offset=offset)
    return row.state


async def wait_for_state(session_id: str, offset: int, state: str) -> None:
    async with asyncio.timeout(scale(20)):
        # The database has no event to wait for.
        while await read_state(session_id, offset) != state:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
