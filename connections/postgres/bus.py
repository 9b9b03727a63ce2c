"""Send messages between nodes over LISTEN and NOTIFY of PostgreSQL."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from django.db import Error as DatabaseError

from connections.bus import Bus
from connections.deadline import deadline
from connections.exceptions import DatabaseUnavailable
from connections.postgres.listener import Listener
from connections.postgres.messages import CHANNELS, notify
from connections.storage.database import Database


class PostgresBus(Bus):
    """
    A bus on the channels of PostgreSQL.

    Without a connection for LISTEN the bus reports every second that messages may
    be missing, and the parts of the node read the tables.
    """

    def __init__(
        self,
        database: Database,
        *,
        node_id: str,
        channels: str = CHANNELS,
        listen_url: str = "",
        timeout_seconds: float = 1,
    ) -> None:
        super().__init__()
        self._database = database
        self._all_channel = f"{channels}all"
        self._timeout_seconds = timeout_seconds
        self._listener = Listener(
            (f"{channels}node:{node_id}", self._all_channel),
            name="The bus between nodes",
            database=database,
            on_message=self.hand_on,
            on_return=self.report_return,
            on_missing=self.report_return,
            url=listen_url,
            timeout_seconds=timeout_seconds,
        )

    @property
    def is_subscribed(self) -> bool:
        return self._listener.is_subscribed

    async def start(self) -> None:
        self._listener.start()

    async def publish(self, kind: str, message: Mapping[str, Any]) -> bool:
        return await self.publish_all(kind, [message])

    async def publish_all(
        self, kind: str, messages: Sequence[Mapping[str, Any]]
    ) -> bool:
        texts = [json.dumps({**message, "kind": kind}) for message in messages]
        try:
            async with deadline(self._timeout_seconds):
                await self._database.run_briefly(notify, self._all_channel, texts)
        except (DatabaseError, DatabaseUnavailable, TimeoutError) as exc:
            self._listener.on_failure(exc)
            return False
        return True

    async def close(self) -> None:
        await self._listener.close()
