"""The real database, which a test can take away."""

from collections.abc import Awaitable, Callable
from typing import Any

from connections.exceptions import DatabaseUnavailable
from connections.storage.database import Database

Work = Callable[..., Any]


class SwitchableDatabase(Database):
    """Run reads and writes, or raise while `is_away`; count the writes."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.writes = 0
        self.around_read: Callable[[Work], Work] | None = None
        """Wraps the function that a read calls."""

        self.after_read: Callable[[], Awaitable[None]] | None = None
        """Runs between a read and the return of its result."""

    async def read(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        if self.is_away:
            raise DatabaseUnavailable("away")
        if self.around_read is not None:
            work = self.around_read(work)
        found = await super().read(work, *args, **kwargs)
        if self.after_read is not None:
            await self.after_read()
        return found

    async def read_foreign(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        if self.is_away:
            raise DatabaseUnavailable("away")
        return await super().read_foreign(work, *args, **kwargs)

    async def write(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        if self.is_away:
            raise DatabaseUnavailable("away")
        self.writes += 1
        return await super().write(work, *args, **kwargs)
