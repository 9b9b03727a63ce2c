"""
Record the connections of a cluster's run, and check its promises.

    python -m tests.faults.history var/tests/invariants/17.json

checks a history that was saved once more. Moments are seconds since its start,
as the clients saw them.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

NEVER = float("inf")

SHARED_FAULTS = tuple(
    f"{store}_{fault}"
    for store in ("redis", "cluster", "postgres")
    for fault in ("paused", "restarted", "flushed")
)
"""Faults that take the shared pool from every node."""

LONE_FAULTS = ("partitioned", "replies_lost")
"""Faults that take the shared pool from one node."""

Span = tuple[float, float]


@dataclass(kw_only=True)
class Attempt:
    """A client's handshake with a node, and the resulting connection."""

    client: str
    node: int
    asked_at: float
    opened_at: float | None = None
    ended_at: float | None = None
    """When the client saw its end, or gave up opening."""

    connection_id: str = ""
    code: int | None = None
    """Of the close frame that the server sent; None where there was none."""

    reason: str = ""
    is_left: bool = False
    """Whether the client ended it."""

    failure: str = ""
    """Why it did not open."""

    @property
    def gone_at(self) -> float:
        """When the connection had ended."""
        return NEVER if self.ended_at is None else self.ended_at

    def __str__(self) -> str:
        opened = "never" if self.opened_at is None else f"{self.opened_at:.2f}"
        return (
            f"{self.client} on node {self.node}, opened {opened}, ended"
            f" {self.gone_at:.2f} ({self.code} {self.reason or self.failure})"
        )


@dataclass(kw_only=True)
class Fault:
    """A fault and its duration."""

    kind: str
    began_at: float
    ended_at: float = NEVER
    node: int | None = None


@dataclass(kw_only=True)
class Record:
    """A connection's row in the database after the run."""

    connection_id: str
    is_closed: bool
    code: int | None
    reason: str


@dataclass(kw_only=True)
class Promises:
    """The promises that a history is checked against."""

    limit: int
    lease_seconds: float
    slack_seconds: float
    """For a busy machine: how late a client may learn of what has happened."""

    @property
    def bound_seconds(self) -> float:
        """The longest time a client may exceed its limit: until the next renewal."""
        return self.lease_seconds / 3 + self.slack_seconds

    @property
    def recovery_seconds(self) -> float:
        """The time after an outage until the shared pool is exact again."""
        return self.lease_seconds + self.slack_seconds


@dataclass(kw_only=True)
class History:
    """One run: the attempts, the faults, and the leftovers."""

    seed: int
    promises: Promises
    attempts: list[Attempt] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)
    """What the shared pool held after all had gone."""

    def save(self, path: Path) -> None:
        """Write the history as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1))

    @classmethod
    def load(cls, path: Path) -> "History":
        """Read a history that save() wrote."""
        raw = json.loads(path.read_text())
        return cls(
            seed=raw["seed"],
            promises=Promises(**raw["promises"]),
            attempts=[Attempt(**one) for one in raw["attempts"]],
            faults=[Fault(**one) for one in raw["faults"]],
            records=[Record(**one) for one in raw["records"]],
            leaked=raw["leaked"],
        )

    def find_violations(self) -> list[str]:
        """Return a sentence for every broken promise."""
        return [
            *self._find_excess(),
            *self._find_wrongful_ends(),
            *self._find_failures(),
            *self.find_bad_records(),
            *(f"left in the shared pool: {what}" for what in self.leaked),
        ]

    def worst_excess_seconds(self) -> float:
        """Return the longest time that a client exceeded its limit without excuse."""
        return max(
            (end - start for _, start, end in self._find_spells()),
            default=0.0,
        )

    # Limits

    def _find_excess(self) -> Iterator[str]:
        bound_seconds = self.promises.bound_seconds
        for who, start, end in self._find_spells():
            if end - start > bound_seconds:
                yield (
                    f"{who} was over its limit of {self.promises.limit} for"
                    f" {end - start:.2f} s from {start:.2f}, more than"
                    f" {bound_seconds:.2f} s"
                )

    def _find_spells(self) -> Iterator[tuple[str, float, float]]:
        """Yield each client and span over the limit that no fault excuses."""
        degraded = list(self._find_outages(SHARED_FAULTS))
        for client in sorted({one.client for one in self.attempts}):
            own = [one for one in self.attempts if one.client == client]
            # Among nodes that share the pool; and on each node at all times.
            excused = [*degraded, *self._find_outages(LONE_FAULTS)]
            for start, end in _subtract(self._find_over(own), excused):
                yield client, start, end
            for node in sorted({one.node for one in own}):
                here = [one for one in own if one.node == node]
                for start, end in self._find_over(here):
                    yield f"{client} on node {node}", start, end

    def _find_outages(self, kinds: Iterable[str]) -> Iterator[Span]:
        for fault in self.faults:
            if fault.kind in kinds:
                yield fault.began_at, fault.ended_at + self.promises.recovery_seconds

    def _find_over(self, attempts: list[Attempt]) -> Iterator[Span]:
        """Yield the spans with more open, undrained connections than allowed."""
        changes = []
        for one in attempts:
            if one.opened_at is not None:
                open_spans = _subtract(
                    [(one.opened_at, one.gone_at)], self._find_uncounted(one)
                )
                for start, end in open_spans:
                    changes += [(start, 1), (end, -1)]
        count, since = 0, 0.0
        for at, change in sorted(changes):
            before, count = count, count + change
            if before <= self.promises.limit < count:
                since = at
            elif count <= self.promises.limit < before and at > since:
                yield since, at

    def _find_uncounted(self, attempt: Attempt) -> list[Span]:
        """Return the spans in which a node's connections do not count."""
        return [
            (fault.began_at, fault.ended_at)
            for fault in self.faults
            if fault.node == attempt.node
            and fault.kind in ("frozen", "drained", "killed")
        ]

    # Ends

    def _find_wrongful_ends(self) -> Iterator[str]:
        for one in self.attempts:
            if one.opened_at is None or one.ended_at is None or one.is_left:
                continue
            if one.code in (4005, 4103):
                # Evicted or displaced: the client must have had as many as allowed.
                rivals = self._count_rivals(one)
                if one.reason != "replaced" and rivals < self.promises.limit:
                    yield f"ended for only {rivals} others: {one}"
            elif one.code == 4200:
                if not self._has_fault(one, ("drained",)):
                    yield f"handed over without a drain: {one}"
            elif one.code == 4104:
                if not self._knows_no_bans(one):
                    yield f"refused while the database answers: {one}"
            elif one.code is not None:
                yield f"ended for no reason here: {one}"
            elif not self._has_fault(one, ("killed", "drained")):
                yield f"dropped: {one}"

    def _knows_no_bans(self, attempt: Attempt) -> bool:
        """Return True if the node started while PostgreSQL was away, and still is."""
        slack = self.promises.slack_seconds
        started_at = [
            fault.ended_at
            for fault in self.faults
            if fault.kind in ("killed", "drained")
            and fault.node == attempt.node
            and fault.ended_at <= attempt.gone_at + slack
        ]
        return any(
            outage.kind.startswith("postgres_")
            and outage.began_at - slack <= started <= outage.ended_at
            and attempt.asked_at <= outage.ended_at + slack
            for outage in self.faults
            for started in started_at
        )

    def _count_rivals(self, ended: Attempt) -> int:
        """Count the connections that could hold a slot when this one lost its own."""
        slack, lease = self.promises.slack_seconds, self.promises.lease_seconds
        must_be_newer = ended.code == 4005
        count = 0
        for one in self.attempts:
            if one is ended or one.client != ended.client:
                continue
            opened_by = one.gone_at if one.opened_at is None else one.opened_at
            # A request that a fault delays counts as the newest when it arrives.
            arrived = max(opened_by, self._find_arrival(one))
            if must_be_newer and arrived < ended.asked_at:
                continue
            # A slot that was not released is held for a lease.
            if ended.gone_at + slack >= one.asked_at and (
                self._find_last_effect(one) + lease + slack >= ended.gone_at
            ):
                count += 1
        return count

    def _find_arrival(self, attempt: Attempt) -> float:
        """Return the latest time of the request for its slot."""
        mended = (
            fault.ended_at
            for fault in self.faults
            if fault.kind == "partitioned"
            and fault.node == attempt.node
            and fault.began_at <= attempt.gone_at
            and attempt.asked_at <= fault.ended_at
        )
        return max(mended, default=attempt.asked_at)

    def _find_last_effect(self, attempt: Attempt) -> float:
        """Return the latest time at which the node learned of the disconnect."""
        thawed = (
            fault.ended_at
            for fault in self.faults
            if fault.kind == "frozen"
            and fault.node == attempt.node
            and fault.began_at <= attempt.gone_at <= fault.ended_at
        )
        return max(thawed, default=attempt.gone_at)

    def _find_failures(self) -> Iterator[str]:
        """Yield handshakes that failed without a fault."""
        kinds = ("killed", "drained", "frozen")
        for one in self.attempts:
            if one.failure and not self._has_fault(one, kinds):
                yield f"not let in: {one}"

    def _has_fault(self, attempt: Attempt, kinds: Iterable[str]) -> bool:
        """Return True if the node had such a fault near the connection's end."""
        slack = self.promises.slack_seconds
        return any(
            fault.kind in kinds
            and fault.node == attempt.node
            and fault.began_at - slack <= attempt.gone_at
            and attempt.asked_at <= fault.ended_at + slack
            for fault in self.faults
        )

    # Records

    def find_bad_records(self) -> Iterator[str]:
        """Yield connections without a record, and records that differ from them."""
        found = {record.connection_id: record for record in self.records}
        for record in self.records:
            if not record.is_closed:
                yield f"the record of {record.connection_id} is open"
        for one in self.attempts:
            if one.opened_at is None or self._has_fault(one, ("killed", "drained")):
                continue
            if one.code == 4104:
                # It had no slot yet, and has no row.
                continue
            known = found.get(one.connection_id)
            if known is None:
                yield f"no record of {one}"
            elif one.code in (4005, 4103, 4200) and known.code != one.code:
                yield f"recorded as {known.code} {known.reason}: {one}"


def _subtract(spans: Iterable[Span], holes: Iterable[Span]) -> Iterator[Span]:
    """Yield the parts of spans outside of holes."""
    holes = sorted(holes)
    for start, end in spans:
        for hole_start, hole_end in holes:
            if hole_end <= start or hole_start >= end:
                continue
            if hole_start > start:
                yield start, hole_start
            start = max(start, hole_end)
        if start < end:
            yield start, end


def main(arguments: list[str]) -> int:
    """Check saved histories; return the number with a broken promise."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.history", description=main.__doc__
    )
    parser.add_argument("paths", nargs="+", metavar="FILE", help="var/tests/*/17.json")
    broken = 0
    for path in parser.parse_args(arguments).paths:
        history = History.load(Path(path))
        violations = history.find_violations()
        broken += bool(violations)
        print(
            f"{path}: seed {history.seed}, {len(history.attempts)} attempts,"
            f" {len(history.faults)} faults, worst excess"
            f" {history.worst_excess_seconds():.2f} s, {len(violations)} violations"
        )
        for violation in violations:
            print(f"  {violation}")
    return broken


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
