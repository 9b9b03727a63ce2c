"""Call an action with each of many objects; one failure stops no pass."""

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

logger = logging.getLogger(__name__)

Item = TypeVar("Item")


class Passes:
    """
    The passes of one owner over its connections, sockets or subscribers.

    Every failure is counted under the name of the pass, by on_failure. The log
    gets the first one with its traceback, and a line when a pass succeeds again.
    """

    def __init__(self, on_failure: Callable[[str], None] = lambda name: None) -> None:
        self.on_failure = on_failure
        self.failures = 0
        """The number of failures so far."""

        self._failing: set[str] = set()

    def for_each(
        self, name: str, action: Callable[[Item], object], items: Iterable[Item]
    ) -> bool:
        """Call an action with each item; return True if none failed."""
        is_whole = True
        for item in items:
            is_whole &= self.attempt(name, action, item)
        return self.finish(name, is_whole=is_whole)

    def attempt(self, name: str, action: Callable[[Item], object], item: Item) -> bool:
        """Call an action with one item of a pass; return True if it succeeded."""
        try:
            action(item)
        except Exception as exc:
            self.report(name, exc, item)
            return False
        return True

    async def attempt_work(self, name: str, work: Awaitable[object]) -> bool:
        """Await one step of a sequence; return True if it succeeded."""
        try:
            await work
        except Exception as exc:
            self.report(name, exc)
            return False
        return True

    def finish(self, name: str, *, is_whole: bool) -> bool:
        """Report that a pass succeeds again, if it failed before; return is_whole."""
        if is_whole and name in self._failing:
            self._failing.remove(name)
            logger.warning("%s succeeds again", name, extra={"event": "pass_recovered"})
        return is_whole

    def report(self, name: str, exc: Exception, item: object = None) -> None:
        """Count a failure, and log it if it is the first one of its pass."""
        self.failures += 1
        self.on_failure(name)
        if name in self._failing:
            return
        self._failing.add(name)
        connection_id = getattr(item, "connection_id", None)
        about = f" for connection {connection_id}" if connection_id else ""
        if item is not None and not about:
            about = f" for {item!r}"
        logger.error(
            "%s failed%s, and the others go on: %s",
            name,
            about,
            exc,
            exc_info=exc,
            extra={"event": "pass_failed"}
            | ({"connection_id": connection_id} if connection_id else {}),
        )
