"""Make the beat of a node out of parts, each of which runs if another fails."""

from collections.abc import Callable
from functools import partial
from typing import Any

from connections.hub.hub import Hub
from connections.metrics.steps import PeriodicSteps
from connections.node.heartbeat import NodeRow
from connections.node.periodic import Step, run_parts
from connections.node.recorder import Recorder


class Beat:
    """Writes the node's row and pending records, then polls for requests."""

    def __init__(
        self,
        *,
        row: NodeRow,
        describe: Callable[[], dict[str, Any]],
        recorder: Recorder,
        write_refusals: Step,
        write_used_tokens: Step,
        polls: tuple[Step, Step, Step],
        hub: Hub,
        steps: PeriodicSteps,
    ) -> None:
        self._row = row
        self._describe = describe
        self._recorder = recorder
        self._hub = hub
        self._steps = steps
        poll_requests, poll_bans, poll_commands = polls
        self._polls = (
            ("The poll of close requests", poll_requests),
            ("The poll of bans", poll_bans),
            ("The poll of commands", poll_commands),
        )
        self._parts = (
            ("The heartbeat", self._write_row),
            ("The write of records", recorder.flush),
            ("The comparison of records", partial(recorder.reconcile, hub)),
            ("The write of refused handshakes", write_refusals),
            ("The write of used tokens", write_used_tokens),
            *self._polls,
        )

    def declare(self, interval_seconds: float) -> None:
        """Expect each part to succeed at an interval from now on."""
        for name, _ in self._parts:
            self._steps.declare(name, interval_seconds)

    async def run(self) -> bool:
        """
        Run all parts; return False if one failed.

        Raises:
            DatabaseUnavailable: the database did not answer.
        """
        return await run_parts(self._parts, self._hub.passes, self._steps)

    async def poll(self) -> bool:
        """
        Run the parts that read what others have posted; return False if one failed.

        Raises:
            DatabaseUnavailable: the next poll reads it.
        """
        return await run_parts(self._polls, self._hub.passes, self._steps)

    async def _write_row(self) -> bool:
        if await self._row.beat(self._describe()):
            return True
        # The row is new: a sweeper may have recorded the connections as lost.
        name, record = "The record of all", self._recorder.record_change
        return await self._hub.for_each_in_slices(name, record)
