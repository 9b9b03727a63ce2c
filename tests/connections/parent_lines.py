"""Lines of workers to a pool in the same process, with the JSON of real ones."""

import json
from collections.abc import Callable
from typing import Any

from connections.pool.parent import PoolHost


class WorkerLine:
    """Both ends of the line of one worker."""

    def __init__(self, host: PoolHost) -> None:
        self._host = host
        self._take: dict[str, Callable[[dict[str, Any]], None]] = {}
        self.is_broken = False
        self._owner = _Owner(self)

    async def ask(self, subject: str, content: dict[str, Any] | None = None) -> Any:
        assert subject == "pool"
        if self.is_broken:
            raise TimeoutError
        answer = await self._host.run(self._owner, json.loads(json.dumps(content)))
        return json.loads(json.dumps(answer))

    def tell(self, subject: str, content: dict[str, Any]) -> None:
        """Run a command at once: no command of the pool waits for anything."""
        assert subject == "pool"
        running = self._host.run(self._owner, json.loads(json.dumps(content)))
        try:
            running.send(None)
        except StopIteration:
            return
        raise AssertionError("a command of the pool waits")

    def listen(self, subject: str, take: Callable[[dict[str, Any]], None]) -> None:
        self._take[subject] = take

    def receive(self, subject: str, content: dict[str, Any]) -> None:
        self._take[subject](json.loads(json.dumps(content)))

    def end(self) -> None:
        """End the process of the worker."""
        self._host.forget(self._owner)


class _Owner:
    def __init__(self, line: WorkerLine) -> None:
        self._line = line

    def tell(self, subject: str, content: dict[str, Any]) -> None:
        self._line.receive(subject, content)
