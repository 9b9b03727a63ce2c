"""Responders for the servers under test."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from sessions_history.responders import HistoryMessage


class Counting:
    """Count to the message's `count`; answer other messages with nothing."""

    async def respond(
        self, message: Any, history: Sequence[HistoryMessage]
    ) -> AsyncIterator[str]:
        for number in range(message.get("count", 0)):
            await asyncio.sleep(message.get("pause_seconds", 0.05))
            yield f"{number} 👩‍👩‍👧 e\u0301 "
