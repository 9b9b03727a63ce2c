"""The real database, which a test can take away."""

from typing import Any

from connections.exceptions import DatabaseUnavailable
from connections.storage.database import Database


class SwitchableDatabase(Database):
    """Run reads and writes, or raise while `is_away`; count the writes."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.writes = 0

    async def read(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        if self.is_away:
            raise DatabaseUnavailable("away")
        return await super().read(work, *args, **kwargs)

    async def write(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        if self.is_away:
            raise DatabaseUnavailable("away")
        self.writes += 1
        return await super().write(work, *args, **kwargs)
