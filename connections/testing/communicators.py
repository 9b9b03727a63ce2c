"""
Run consumers in the test's process, on a clock that the test advances.

    node = make_node(idle_timeout_seconds=300)
    communicator = connect_to(ChatConsumer, node)
    assert (await communicator.connect())[0]
    await node.advance(301)
    await assert_closed(communicator, 4300)

Django's models must be ready before this import.
"""

from typing import Any

from channels.testing import WebsocketCommunicator

from connections.config.fields import Problem, read_section
from connections.config.loader import WebSocketConfig
from connections.credentials.identity import Credential
from connections.node.node import Node
from connections.testing.clock import FakeClock
from connections.testing.waiting import scale

PATIENCE_SECONDS = 15
END_SECONDS = 5


class VirtualNode(Node):
    """A node without a database, on a clock that the test advances."""

    def __init__(self, config: WebSocketConfig, clock: FakeClock) -> None:
        super().__init__(config, clock=clock)
        self._clock = clock

    async def advance(self, seconds: float) -> None:
        """Advance the time; end idle and expired connections, and lingers."""
        await self.presence.beat()
        self._clock.advance(seconds)
        await self.activity.check()
        await self.presence.beat()


def make_config(**values: Any) -> WebSocketConfig:
    """
    Return a configuration with some keys changed.

    Raises:
        ValueError: a key or value is not allowed.
    """
    problems: list[Problem] = []
    config = read_section(WebSocketConfig, values, "websocket", problems)
    if problems:
        raise ValueError("\n".join(map(str, problems)))
    return config


def make_node(clock: FakeClock | None = None, **values: Any) -> VirtualNode:
    """Return a node without a database; values are keys of the configuration."""
    return VirtualNode(make_config(**values), clock or FakeClock())


class Communicator(WebsocketCommunicator):
    """
    Channels' communicator with longer timeouts, for busy machines.

    By default they are PATIENCE_SECONDS, for an end END_SECONDS, multiplied by
    TEST_PATIENCE.
    """

    async def connect(self, timeout: float | None = None) -> Any:
        return await super().connect(_choose(timeout))

    async def receive_output(self, timeout: float | None = None) -> Any:
        return await super().receive_output(_choose(timeout))

    async def receive_from(self, timeout: float | None = None) -> Any:
        return await super().receive_from(_choose(timeout))

    async def receive_json_from(self, timeout: float | None = None) -> Any:
        return await super().receive_json_from(_choose(timeout))

    async def disconnect(self, code: int = 1000, timeout: float | None = None) -> None:
        # A consumer that has not ended then is cancelled, without an error.
        seconds = scale(END_SECONDS) if timeout is None else timeout
        await super().disconnect(code, seconds)

    async def wait(self, timeout: float | None = None) -> None:
        await super().wait(_choose(timeout))


def _choose(timeout: float | None) -> float:
    """Return the timeout of a caller, or that of this machine."""
    return scale(PATIENCE_SECONDS) if timeout is None else timeout


def connect_to(
    consumer: Any,
    node: Node | None = None,
    client_id: str = "alice",
    path: str = "/ws/test/",
    **scope: Any,
) -> Communicator:
    """
    Return a communicator whose scope has the node and the credential of a client.

    `scope` adds what the consumer reads besides: `user=`, `session=`, `url_route=`.
    """
    communicator = Communicator(consumer.as_asgi(), path)
    if node is not None:
        communicator.scope["node"] = node
        communicator.scope["credential"] = Credential(client_id=client_id)
    communicator.scope.update(scope)
    return communicator
