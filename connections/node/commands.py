"""How one node carries out the orders of staff, each once."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from connections.hub.hub import Hub
from connections.models import NodeCommand
from connections.storage.database import Database

logger = logging.getLogger(__name__)

_REMEMBERED_COMMANDS = 10_000


class AppliedCommands:
    """
    Looks for orders to this node.

    `drain` hands its clients over and returns when they are gone, `serve` has
    it take connections again.
    """

    def __init__(
        self,
        *,
        hub: Hub,
        database: Database,
        node_id: str,
        drain: Callable[[], Awaitable[None]],
        serve: Callable[[], None],
    ) -> None:
        self._hub = hub
        self._database = database
        self._node_id = node_id
        self._drain = drain
        self._serve = serve
        self._taken: dict[int, None] = {}
        self._draining: asyncio.Task[None] | None = None

    async def poll(self) -> None:
        """
        Carry out what is new.

        Raises:
            DatabaseUnavailable: what was not seen is found the next time.
        """
        for command in await self._database.read(_read):
            if command.pk in self._taken:
                continue
            self._taken[command.pk] = None
            if len(self._taken) > _REMEMBERED_COMMANDS:
                del self._taken[next(iter(self._taken))]
            reached, unreached = self._carry_out(command)
            own = NodeCommand.objects.filter(pk=command.pk)
            await self._database.write(
                own.record_done, reached=reached, unreached=unreached
            )

    def _carry_out(self, command: NodeCommand) -> tuple[int, int]:
        """Do what is asked; return how many were told, and how many could not be."""
        if command.kind == NodeCommand.Kind.NOTICE:
            return self._pass_on(command)
        if command.value != self._node_id:
            return 0, 0
        logger.warning(
            "Node %s: %s, asked for by %s",
            self._node_id[:8],
            command.kind,
            command.author,
            extra={"event": "order_taken"},
        )
        if self._draining is not None:
            self._draining.cancel()
            self._draining = None
        if command.kind == NodeCommand.Kind.DRAIN:
            self._draining = asyncio.create_task(self._run_drain())
        else:
            self._serve()
        return 0, 0

    async def _run_drain(self) -> None:
        await self._drain()

    def _pass_on(self, command: NodeCommand) -> tuple[int, int]:
        notice = {
            "type": "notice",
            "text": command.text,
            "at": command.created_at.isoformat(),
        }
        found = self._hub.select(command.target, command.value, self._node_id)
        reached = sum(connection.sender.send(notice) for connection in found)
        return reached, len(found) - reached


def _read() -> list[NodeCommand]:
    return list(NodeCommand.objects.recent().order_by("id"))
