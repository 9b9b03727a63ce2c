"""The steps by which hypothesis disturbs a world of sessions."""

from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.simulation.oracle import HISTORY_LIMIT
from tests.simulation.pages import Broken, Page
from tests.simulation.stores import Copy, DatabaseClock
from tests.simulation.world import FAULTS, World

_MOST_PAGES = 5
_MOST_COPIES = 3
_PLANS = (
    *("quick", "quick", "slow", "slow", "endless", "silent"),
    *("empty", "fails", "breaks", "stubborn"),
)
_SECONDS = (0.001, 0.01, 0.1, 0.5, 0.5, 2, 2, 6, 20)
_STEPS = {
    "say": 6,
    "flood": 3,
    "say_unconfirmed": 3,
    "repeat": 2,
    "cancel": 2,
    "open_page": 3,
    "connect": 2,
    "cut": 1,
    "stop_reading": 1,
    "read": 1,
    "fault": 4,
    "save": 1,
    "travel": 1,
    "advance": 5,
    "rest": 1,
}
"""How often each step is taken, in proportion."""

_NUMBER = st.integers(0, 59)
"""Chooses one of several pages, plans, faults or copies."""


class Sessions(RuleBasedStateMachine):
    """
    Clients, faults of nodes and of the database, in any order.

    One rule takes every step: hypothesis leaves half of the rules out of an example,
    and most flaws show themselves where several kinds of steps meet.
    """

    clock = DatabaseClock()
    finding = ""
    """What the last example found that broke a promise."""

    def __init__(self) -> None:
        super().__init__()
        self._empty = Copy()

    @initialize(seed=st.integers(0, 2**16))
    def begin(self, seed: int) -> None:
        self._seed = seed
        self._steps: list[tuple[str, int, int]] = []
        self.world = World(seed)
        self.clock.now = self.world
        self.number = 0
        self.open_page(0, 0)
        self.say(0, 0)
        self.world.advance(1)

    @rule(
        name=st.sampled_from([one for one, n in _STEPS.items() for _ in range(n)]),
        which=_NUMBER,
        what=_NUMBER,
    )
    def step(self, name: str, which: int, what: int) -> None:
        """Take a step of the page, or with the copy, that `which` chooses."""
        self._steps.append((name, which, what))
        with self._reporting():
            getattr(self, name)(which, what)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            with self._reporting():
                self.world.rest()
        finally:
            self.clock.now = lambda: 0
            self.world.close()
            self._empty.restore()
            self._empty.close()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except Broken as exc:
            type(self).finding = f"{exc}\nafter {self._seed}, {self._steps}"
            raise

    # Clients

    def open_page(self, which: int, what: int) -> None:
        """Open a page of a known session, or of a new one."""
        if len(self.world.pages) == _MOST_PAGES:
            return
        used = sorted({one.session for one in self.world.pages if one.acked})
        is_known = used and which % 3
        session = used[which % len(used)] if is_known else "new"
        page = Page(f"page{len(self.world.pages)}", session)
        self.world.pages.append(page)
        self._connect(page, what)

    def connect(self, which: int, what: int) -> None:
        """Attach a page anew, to any node."""
        page = self._page(which)
        if not page.is_gone:
            self._connect(page, what)

    def say(self, which: int, what: int) -> None:
        """Send a message."""
        self.number += 1
        plan = _PLANS[what % len(_PLANS)]
        self.world.oracle.messages[self.number] = plan
        self._page(which).say(self.number, plan)
        self.world.advance(0)

    def flood(self, which: int, what: int) -> None:
        """Send so many messages that all entries before them are trimmed."""
        for _ in range(HISTORY_LIMIT // 2):
            self.say(which, 0)
            self.world.advance(0.1)

    def say_unconfirmed(self, which: int, what: int) -> None:
        """Send a message whose commit gets no reply."""
        self.world.fault(self._page(which), "lost 1")
        self.say(which, what)

    def repeat(self, which: int, what: int) -> None:
        """Send a message again, also one whose ack came."""
        page = self._page(which)
        again = sorted(page.sent.keys() - page.refused.keys())
        if again:
            page.send_again(again[what % len(again)])
        self.world.advance(0.1)

    def cancel(self, which: int, what: int) -> None:
        """Stop what streams to a page."""
        self.world.cancel(self._page(which))

    def cut(self, which: int, what: int) -> None:
        """Cut a page off."""
        self._page(which).cut()
        self.world.advance(0)

    def stop_reading(self, which: int, what: int) -> None:
        """Let a page read nothing any more."""
        self._page(which).reads.clear()

    def read(self, which: int, what: int) -> None:
        """Let a page read again."""
        self._page(which).reads.set()
        self.world.advance(0)

    # Faults

    def fault(self, which: int, what: int) -> None:
        """Disturb the node of a page, or its database."""
        self.world.fault(self._page(which), FAULTS[what % len(FAULTS)])

    def save(self, which: int, what: int) -> None:
        """Back the database up."""
        if len(self.world.saved) < _MOST_COPIES:
            self.world.save()

    def travel(self, which: int, what: int) -> None:
        """Restore a backup."""
        if self.world.saved:
            saved = self.world.saved[which % len(self.world.saved)]
            self.world.travel(saved, is_announced=what % 2 == 0)

    # Time

    def advance(self, which: int, what: int) -> None:
        """Let time pass."""
        self.world.advance(_SECONDS[what % len(_SECONDS)])

    def rest(self, which: int, what: int) -> None:
        """Heal everything and let all agree."""
        self.world.rest()

    def _page(self, which: int) -> Page:
        return self.world.pages[which % len(self.world.pages)]

    def _connect(self, page: Page, which: int) -> None:
        sites = self.world.sites
        self.world.run(page.connect(sites[which % len(sites)].node))
        self.world.advance(0)
