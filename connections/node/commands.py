"""Carry out the commands of staff on one node, each once."""

import logging
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

from connections.background import BackgroundTasks
from connections.hub.connection import LiveConnection
from connections.hub.hub import Hub
from connections.models import NodeCommand
from connections.node.new_rows import NewRows
from connections.storage.database import Database
from connections.units import format_moment

logger = logging.getLogger(__name__)

_STALE = timedelta(seconds=60)
"""The age from which a node does not carry a command out any more."""


class AppliedCommands:
    """
    Reads the commands to one node, and carries each out once.

    `drain` runs a drain and returns when every connection has ended; `serve`
    makes the node accept connections again.
    """

    def __init__(
        self,
        *,
        hub: Hub,
        database: Database,
        node_id: str,
        drain: Callable[[], Coroutine[Any, Any, None]],
        serve: Callable[[], None],
    ) -> None:
        self._hub = hub
        self._database = database
        self._node_id = node_id
        self._drain = drain
        self._serve = serve
        self._new = NewRows(NodeCommand)
        self._draining = BackgroundTasks()

    async def poll(self) -> None:
        """
        Carry out new commands.

        Raises:
            DatabaseUnavailable: the next poll finds them.
        """
        for command, age in await self._new.poll(self._database):
            if age >= _STALE:
                continue
            reached, unreached = await self._carry_out(command)
            own = NodeCommand.objects.filter(pk=command.pk)
            await self._database.write(
                own.record_done, reached=reached, unreached=unreached
            )

    async def stop(self) -> None:
        """Stop waiting for the end of a drain."""
        await self._draining.stop()

    async def _carry_out(self, command: NodeCommand) -> tuple[int, int]:
        """Carry a command out; return how many connections it reached, and missed."""
        if command.kind == NodeCommand.Kind.NOTICE:
            return await self._send_notice(command)
        if command.value != self._node_id:
            return 0, 0
        logger.warning(
            "Node %s received the command %s from %s",
            self._node_id[:8],
            command.kind,
            command.author,
            extra={"event": "order_taken"},
        )
        self._draining.cancel()
        if command.kind == NodeCommand.Kind.DRAIN:
            self._draining.start(self._drain(), "The drain")
        else:
            self._serve()
        return 0, 0

    async def _send_notice(self, command: NodeCommand) -> tuple[int, int]:
        notice = {
            "type": "notice",
            "text": command.text,
            "at": format_moment(command.created_at),
        }
        found = self._hub.select(command.target, command.value, self._node_id)
        reached: list[LiveConnection] = []

        def send(connection: LiveConnection) -> None:
            if connection.sender.send(notice):
                reached.append(connection)

        await self._hub.for_each_in_slices("The notice of staff", send, found)
        return len(reached), len(found) - len(reached)
