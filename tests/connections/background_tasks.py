"""Wait for the tasks that the code under test has started."""

import asyncio


async def finish_tasks() -> None:
    """Wait until every other task of the running loop has ended."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others)
