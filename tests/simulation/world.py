"""Nodes, pages and one database on a virtual clock, which faults disturb."""

import asyncio
import random
from dataclasses import dataclass
from typing import Any

from connections.node.node import Node
from connections.testing.communicators import make_config
from sessions_history.epochs import renew_epochs
from sessions_history.log import get_log
from sessions_history.models import Session
from sessions_history.reads import read_positions
from tests.simulation.answers import Answering, PlannedResponder
from tests.simulation.oracle import HISTORY_LIMIT, MAX_OPEN_STREAMS, Known, Oracle
from tests.simulation.pages import Broken, Page
from tests.simulation.stores import Copy, SimulatedDatabase, SimulationLoop

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


@dataclass(slots=True)
class Site:
    """One node, its way to the database and its responder."""

    node: Node
    database: SimulatedDatabase
    responder: PlannedResponder

    def kill(self) -> None:
        """End the process of the node: whatever it waits for never comes."""
        self.database.is_dead = self.responder.is_dead = True


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
        self._calls: list[Answering] = []
        self._made: list[Site] = []
        self._checked_calls = 0
        self.sites = [self._make_site() for _ in range(2)]
        self.saved: list[Saved] = []
        self.oracle = Oracle(self._calls, self)

    @property
    def pages(self) -> list[Page]:
        """All pages of the client."""
        return self.oracle.pages

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
        is_disturbed = (
            site is None or site.database.is_away or site.database.lost_replies
        )
        positions, _ = read_positions([page.session])
        position = positions.get(page.session)
        # The page may not have heard yet that the log went back in time.
        is_of_this_log = position is not None and position.epoch == page.epoch
        for offset, held in page.entries.items():
            if held.state == "streaming" and page.is_open and page.reads.is_set():
                page.send(type="cancel", offset=offset, epoch=page.epoch)
                self.oracle.cancelled.add((page.session, offset))
                if is_of_this_log and not is_disturbed:
                    self.oracle.stop(page.session, offset)
        self.advance(0)

    def _cancel_all(self) -> None:
        for page in self.pages:
            self.cancel(page)

    # Disturbances

    def _make_site(self) -> Site:
        database = SimulatedDatabase(self.chance, self)
        responder = PlannedResponder(self._calls, database)
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
        self.oracle.disturb()
        index = next(
            (n for n, one in enumerate(self.sites) if one.node is page.node), 0
        )
        site = self.sites[index]
        site.database.disturb()
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
        known = {key: one.copy() for key, one in self.oracle.known.items()}
        self.saved.append(Saved(copy=Copy(), known=known))

    def travel(self, saved: Saved, *, is_announced: bool) -> None:
        """
        Restore a backup; if announced, renew the epochs as the operator's page says.

        Otherwise nodes have to notice it, as after a primary was lost.
        """
        self.oracle.travels += 1
        self.oracle.disturb()
        for site in self.sites:
            site.database.disturb()
        saved.copy.restore()
        if is_announced:
            renew_epochs(Session.objects.all(), 100)
        self.oracle.known = {key: one.copy() for key, one in saved.known.items()}
        for page in self.pages:
            page.doubtful = set(page.acked)

    # What must hold

    def check(self) -> None:
        """
        Check what holds at any moment.

        Raises:
            Broken: something does not hold.
        """
        self.oracle.check_pages()
        calls = sum(site.database.calls for site in self._made)
        if calls != self._checked_calls:
            self._checked_calls = calls
            self.oracle.check_logs()
        self.oracle.check_stopped()

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
        self._check_writers()
        for _ in range(_MOST_ROUNDS):
            self._cancel_all()
            self.return_all()
            self.advance(_ROUND_SECONDS)
            if not any(page.waiting for page in self.pages if not page.is_gone):
                break
        self._cancel_all()
        self.advance(_REST_SECONDS)
        # A page that read nothing for long is closed when it reads again, and learns of
        # an answer when it has returned.
        self.return_all()
        self.advance(_ROUND_SECONDS)
        self._cancel_all()
        self.advance(_ROUND_SECONDS)
        for page in self.pages:
            if not page.is_gone:
                self.oracle.check_page(page)
        self.oracle.check_calls()

    def _check_writers(self) -> None:
        """Check that every answer which streams is written, before pages stop it."""
        self.return_all()
        self.advance(_REST_SECONDS)
        deserted = self.oracle.find_deserted()
        # An answer may have begun or ended in this moment.
        self.advance(_ROUND_SECONDS)
        if deserted := deserted & self.oracle.find_deserted():
            raise Broken(f"{deserted} streams, and nobody writes it")

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


async def _cancel_all() -> None:
    """Cancel every task, also those that wait again after a first time."""
    while left := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=1)
