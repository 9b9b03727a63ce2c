"""Wait for a server on a Unix socket."""

import asyncio
import contextlib
from pathlib import Path


async def is_listening(path: Path) -> bool:
    """Return True if a server listens: its socket is in the folder before it does."""
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_unix_connection(path)
        writer.close()
        return True
    return False
