"""Nodes, pages and one database on a virtual clock, and what must hold among them."""

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from connections.node.node import Node
from connections.testing.communicators import make_config
from sessions_history.entries import Entry
from sessions_history.epochs import renew_epochs
from sessions_history.log import get_log
from sessions_history.models import Session
from sessions_history.reads import read_entries_after, read_positions
from tests.simulation.answers import PLANS, Answering, PlannedResponder, is_text_of
from tests.simulation.pages import Broken, Held, Page
from tests.simulation.stores import Copy, SimulatedDatabase, SimulationLoop

HISTORY_LIMIT = 8
MAX_OPEN_STREAMS = 5
LEASE_SECONDS = 6.0
FAULTS = ("killed", "stopped", "away", "back", "lost 1", "lost 3")
"""What happens to a node: its process ends, or its database is away or answers again,
or commits so many writes whose replies are lost."""

_CONFIG: dict[str, Any] = {
    "max_connections_per_client": 50,
    "max_session_history": HISTORY_LIMIT,
    "idle_timeout_seconds": 86_400,
    "node": {"node_timeout_seconds": LEASE_SECONDS},
    "sessions": {"max_open_streams": MAX_OPEN_STREAMS, "stream_timeout_seconds": 60},
    "rate_limit": {"messages_per_second": 1000, "burst_messages": 1000},
}
_REST_SECONDS = 20
"""Long enough for leases, checks of positions and retries."""

_ROUND_SECONDS = 3
_MOST_ROUNDS = 20
"""How often and how many times pages send unsettled messages again."""

_LONG_CHARACTERS = 300  # A longer answer may have reached its time-out.
_STOP_SECONDS = 4
"""How long a stopped answer may go on: two seconds, and the way to its node."""


@dataclass(slots=True)
class Site:
    """One node, its way to the database and its responder."""

    node: Node
    database: SimulatedDatabase
    responder: PlannedResponder

    def kill(self) -> None:
        """End the process of the node: whatever it waits for never comes."""
        self.database.is_dead = self.responder.is_dead = True


@dataclass(slots=True)
class Known:
    """What the log of a session is known to hold, by offset."""

    entries: dict[int, Entry] = field(default_factory=dict)
    last_offset: int = 0
    streaming: set[int] = field(default_factory=set)
    """The offsets that streamed when the log was read."""

    def copy(self) -> "Known":
        return Known(dict(self.entries), self.last_offset, set(self.streaming))


@dataclass(slots=True, kw_only=True)
class Saved:
    """A copy of the database, and what was known of it."""

    copy: Copy
    known: dict[str, Known]


class World:
    """The whole stack: two nodes over one database, and the pages of a client."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self._runner = asyncio.Runner(loop_factory=SimulationLoop)
        self.calls: list[Answering] = []
        self._made: list[Site] = []
        self._checked_calls = 0
        self.sites = [self._make_site() for _ in range(2)]
        self.pages: list[Page] = []
        self.messages: dict[int, str] = {}
        """The plan of each message, by its number."""
        self.known: dict[str, Known] = {}
        self.saved: list[Saved] = []
        self.travels = 0
        self.disturbances = 0
        """Crashes, outages and lost replies, after which an answer may begin anew."""
        self.cancelled: set[tuple[str, int]] = set()
        """(session_id, offset) of the answers that a page stopped."""
        self.stopped_at: dict[tuple[str, int], float] = {}

    def __call__(self) -> float:
        """Return the seconds since the beginning."""
        return self._runner.get_loop().time()

    def run(self, work: Any) -> Any:
        """Run a coroutine on the virtual clock."""
        return self._runner.run(work)

    def advance(self, seconds: float) -> None:
        """Let time pass, then check everything that holds at any moment."""
        self.run(asyncio.sleep(seconds))
        self.check()

    def close(self) -> None:
        """Kill everything."""
        for site in self._made:
            site.kill()
        for site in self._made:
            self.run(site.database.close())
        self.run(_cancel_all())
        self._runner.close()
        for saved in self.saved:
            saved.copy.close()

    def cancel(self, page: Page) -> None:
        """Stop what streams to a page; an undisturbed node has to do it."""
        site = next((one for one in self.sites if one.node is page.node), None)
        for offset, held in page.entries.items():
            if held.state == "streaming" and page.is_open and page.reads.is_set():
                page.send(type="cancel", offset=offset)
                self.cancelled.add((page.session, offset))
                if (
                    site
                    and not site.database.is_away
                    and not site.database.lost_replies
                ):
                    self.stopped_at.setdefault((page.session, offset), self())
        self.advance(0)

    def _cancel_all(self) -> None:
        for page in self.pages:
            self.cancel(page)

    # Disturbances

    def disturb(self) -> None:
        """Count a fault, which may also lose what was asked before."""
        self.disturbances += 1
        self.stopped_at.clear()

    def _make_site(self) -> Site:
        database = SimulatedDatabase(self.chance)
        responder = PlannedResponder(self.calls)
        config = make_config(**_CONFIG)

        async def start() -> Node:
            clock = asyncio.get_running_loop().time
            node = Node(config, database=database, clock=clock)
            get_log(node).responder = responder
            return node

        self._made.append(Site(self.run(start()), database, responder))
        return self._made[-1]

    def fault(self, page: Page, kind: str) -> None:
        """Disturb the node of a page; another takes the place of one that ends."""
        self.disturb()
        index = next(
            (n for n, one in enumerate(self.sites) if one.node is page.node), 0
        )
        site = self.sites[index]
        if kind in ("away", "back"):
            site.database.is_away = kind == "away"
        elif kind.startswith("lost"):
            site.database.lost_replies = int(kind[-1])
        else:
            if kind == "stopped":
                self.run(site.node.stop())
            site.kill()
            for one in self.pages:
                if one.node is site.node:
                    one.vanish()
            self.sites[index] = self._make_site()

    def save(self) -> None:
        """Back the database up."""
        self.check()
        known = {key: one.copy() for key, one in self.known.items()}
        self.saved.append(Saved(copy=Copy(), known=known))

    def travel(self, saved: Saved) -> None:
        """Restore a backup, and renew the epochs as the operator's page says."""
        self.travels += 1
        self.disturb()
        saved.copy.restore()
        renew_epochs(Session.objects.all(), 100)
        self.known = {key: one.copy() for key, one in saved.known.items()}

    # What must hold

    def check(self) -> None:
        """
        Check what holds at any moment.

        Raises:
            Broken: something does not hold.
        """
        for page in self.pages:
            if page.problems:
                raise Broken("; ".join(page.problems))
            if page.session != "new" and not page.is_gone:
                self.known.setdefault(page.session, Known())
        calls = sum(site.database.calls for site in self._made)
        if calls != self._checked_calls:
            self._checked_calls = calls
            self._check_logs()
        self._check_stopped()

    def _check_logs(self) -> None:
        positions, _ = read_positions(list(self.known))
        for session_id, position in positions.items():
            rows = read_entries_after(session_id, 0, 10_000)
            self._compare(session_id, rows, position.last_offset)
        for page in self.pages:
            if page.is_gone and page.session in positions and not self.travels:
                raise Broken(f"{page.name} was told that its session does not exist")

    def _compare(self, session_id: str, rows: list[Entry], last_offset: int) -> None:
        """Compare the log of a session with what was known of it, and learn."""
        known = self.known[session_id]
        if last_offset < known.last_offset:
            raise Broken(f"the log ends at {last_offset}, before {known.last_offset}")
        if len(rows) != min(last_offset, HISTORY_LIMIT):
            raise Broken(f"{len(rows)} entries of {last_offset} are kept")
        known.streaming = {row.offset for row in rows if row.is_streaming}
        if len(known.streaming) > MAX_OPEN_STREAMS:
            raise Broken("too many entries stream")
        for row in rows:
            before = known.entries.get(row.offset)
            if before is not None:
                self._compare_entry(before, row)
            elif row.offset <= known.last_offset:
                raise Broken(f"{row.offset} appeared below {known.last_offset}")
            known.entries[row.offset] = row
            if row.sender == "server":
                self._check_end(session_id, row)
        known.last_offset = last_offset
        rows = [row for row in known.entries.values() if row.sender == "client"]
        numbers = [_read(row)["number"] for row in rows]
        if len(numbers) != len(set(numbers)):
            raise Broken(f"a message was appended twice: {numbers}")
        for offset, row in known.entries.items():
            if row.sender == "server":
                self._check_answer(known, offset, row)

    def _check_end(self, session_id: str, row: Entry) -> None:
        """Check that an answer was ended by somebody who may end it."""
        was_cancelled = (session_id, row.offset) in self.cancelled
        if row.state == "cancelled" and not was_cancelled:
            raise Broken(f"{row.offset} is cancelled, and no client asked for it")
        is_late = len(row.text) > _LONG_CHARACTERS
        if row.state == "interrupted" and not self.disturbances and not is_late:
            raise Broken(f"{row.offset} is interrupted, and nothing disturbed it")

    def _compare_entry(self, before: Entry, row: Entry) -> None:
        if not before.is_streaming and (before.data, before.state) != (
            row.data,
            row.state,
        ):
            raise Broken(f"{row.offset} changed after its end: {before} to {row}")
        if before.is_streaming and not row.text.startswith(before.text):
            raise Broken(f"{row.offset} lost text: {before.text!r} to {row.text!r}")

    def _check_answer(self, known: Known, offset: int, row: Entry) -> None:
        """Check the text of an answer against the plan of its message."""
        message = known.entries.get(offset - 1)
        if message is None:
            return
        number = _read(message)["number"]
        plan = PLANS[self.messages[number]]
        is_whole = row.state == "done"
        if not is_text_of(number, plan, row.text, is_whole=is_whole):
            raise Broken(
                f"the answer {offset} to {number} is {row.text!r}: {row.state}"
            )
        if is_whole and plan.failure is not None:
            raise Broken(f"the failed answer {offset} is done")

    def _check_stopped(self) -> None:
        for (session_id, offset), at in self.stopped_at.items():
            is_streaming = offset in self.known[session_id].streaming
            if is_streaming and self() > at + _STOP_SECONDS:
                raise Broken(f"{offset} streams {self() - at} s after its cancel")

    def rest(self) -> None:
        """
        Heal everything, let every page return, and check that all agree.

        Raises:
            Broken: a message is not settled, or a page differs from the log.
        """
        for site in self.sites:
            site.database.is_away = False
            site.database.lost_replies = 0
        for page in self.pages:
            page.reads.set()
        for _ in range(_MOST_ROUNDS):
            self._cancel_all()
            self.return_all()
            self.advance(_ROUND_SECONDS)
            if not any(page.waiting for page in self.pages if not page.is_gone):
                break
        self._cancel_all()
        self.advance(_REST_SECONDS)
        # A page that read nothing for long is closed when it reads again.
        self.return_all()
        self.advance(_ROUND_SECONDS)
        for page in self.pages:
            if not page.is_gone:
                self._check_page(page)
        calls = Counter(call.number for call in self.calls)
        for number, count in calls.items():
            if count > 1 + self.disturbances:
                raise Broken(f"the responder was asked {count} times for {number}")
        for call in self.calls:
            plan = PLANS[self.messages[call.number]]
            is_over = not call.is_open or call.responder.is_dead or plan.swallows
            if not is_over:
                raise Broken(f"the responder still answers {call.number}")

    def return_all(self) -> None:
        """Connect every page that is away, and send unsettled messages again."""
        for page in self.pages:
            if page.is_gone:
                continue
            if not page.is_open:
                self.run(page.connect(self.chance.choice(self.sites).node))
            else:
                for message_id in sorted(page.waiting):
                    page.send_again(message_id)

    def _check_page(self, page: Page) -> None:
        if not page.is_open:
            raise Broken(f"{page.name} is not connected")
        if page.waiting:
            raise Broken(f"{page.name} waits for {page.waiting}")
        known = self.known[page.session]
        rows = read_entries_after(page.session, 0, 10_000)
        if page.position != known.last_offset:
            raise Broken(f"{page.name} is at {page.position}, not {known.last_offset}")
        for row in rows:
            if row.is_streaming:
                raise Broken(f"{row.offset} streams for ever")
            held = page.entries.get(row.offset)
            if held is None:
                if row.offset not in page.missed:
                    raise Broken(f"{page.name} was never sent {row.offset}")
            elif (held.data, held.state) != (_read(row), row.state):
                raise Broken(f"{page.name} holds {held}, the log {row}")
        for offset, held in page.entries.items():
            if held.state == "streaming":
                raise Broken(f"{offset} of {page.name} is written for ever")
            was = known.entries.get(offset)
            if was is not None and held.state != "lost" and not _is_told(held, was):
                raise Broken(f"{page.name} holds {held}, the log held {was}")
        for message_id, offset in page.acked.items():
            entry = known.entries.get(offset)
            if entry is None:
                # Entries that stream are kept in the place of others.
                if offset > known.last_offset - HISTORY_LIMIT + MAX_OPEN_STREAMS:
                    raise Broken(f"{message_id} was acked at {offset} and is missing")
            elif _read(entry) != page.sent[message_id]:
                raise Broken(f"{message_id} was acked at {offset}, which is {entry}")


async def _cancel_all() -> None:
    """Cancel every task, also those that wait again after a first time."""
    while left := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=1)


def _is_told(held: Held, was: Entry) -> bool:
    """Return True if a page may hold this of an entry that was trimmed."""
    if held.sender != "server":
        return bool(held.data == _read(was))
    if held.state == "interrupted" or was.is_streaming:
        # It was trimmed before the page got its end, or before the log was read.
        return was.text.startswith(held.text) or held.text.startswith(was.text)
    return bool(held.data == _read(was))


def _read(entry: Entry) -> Any:
    """Return the payload of an entry."""
    return json.loads(entry.data)
