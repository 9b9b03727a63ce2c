"""A server that only records how a drain stops its parts."""

import asyncio

from connections.background import BackgroundTasks
from connections.close_codes import CloseReason
from connections.server.admission import Admission
from connections.testing.communicators import make_node


class FakeSocket:
    """A WebSocket or port of the server; a broken one raises at every call."""

    is_sending = False

    def __init__(self, *, is_broken: bool = False) -> None:
        self.calls: list[str] = []
        self.moments: list[float] = []
        """When each call came, by the loop."""
        self._is_broken = is_broken

    def _record(self, name: str) -> None:
        self.calls.append(name)
        self.moments.append(asyncio.get_running_loop().time())
        if self._is_broken:
            raise ConnectionResetError("the socket is gone")

    def end(self, close_reason: CloseReason) -> None:
        self._record("end")

    def abort(self) -> None:
        self._record("abort")

    def close_idle(self) -> None:
        self._record("close")

    def stopListening(self) -> None:
        self._record("stop")


class FakeServer:
    """The parts of a server that a drain stops; one of each kind may be broken."""

    applications = requests = ()
    is_retiring = False

    def __init__(
        self, *, grace_seconds: float, count: int = 3, broken: int | None = None
    ) -> None:
        self.node = make_node(drain={"grace_seconds": grace_seconds})
        self.config = self.node.config
        self.loop = asyncio.get_running_loop()
        self.admission = Admission(self.config, self.loop.time)
        self.skips_grace = asyncio.Event()
        self.tasks = BackgroundTasks()
        self.ports, self.websockets, self.http_channels = (
            [FakeSocket(is_broken=number == broken) for number in range(count)]
            for _ in range(3)
        )
