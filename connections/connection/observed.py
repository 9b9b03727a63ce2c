"""Run a connection whose events have spans or scopes of Sentry."""

from connections.asgi import Message
from connections.connection.runner import ConnectionRunner
from connections.telemetry.events import Watched, name_client
from connections.telemetry.handshake import HANDSHAKE, Handshake


class ObservedRunner(ConnectionRunner):
    """A runner that handles each event within the blocks of its instruments."""

    __slots__ = ()

    @property
    def _handshake(self) -> Handshake:
        handshake: Handshake = self._scope[HANDSHAKE]
        return handshake

    async def run(self) -> None:
        self._handshake.attach(
            Watched(
                connection=self.connection,
                node_id=self._node.node_id,
                client_name=name_client(self.connection.client_id),
            )
        )
        try:
            await super().run()
        finally:
            self._handshake.finish("unanswered")

    async def _connect(self, message: Message) -> None:
        with self._handshake.watch(message):
            await super()._connect(message)

    async def _handle(self, message: Message) -> None:
        began_at = self._node.clock()
        with self._handshake.watch(message) as event:
            await super()._handle(message)
        if event.is_of_client and event.ids is not None:
            seconds = self._node.clock() - began_at
            self._node.counters.handling.keep_exemplar(seconds, *event.ids)


def choose_runner(scope: Message) -> type[ConnectionRunner]:
    """Return the class that runs a connection; most need the plain one."""
    return ObservedRunner if HANDSHAKE in scope else ConnectionRunner
