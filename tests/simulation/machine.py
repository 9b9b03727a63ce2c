"""The rules by which hypothesis disturbs a world of sessions."""

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
)

from tests.simulation.answers import PLANS
from tests.simulation.pages import Page
from tests.simulation.stores import Copy, DatabaseClock
from tests.simulation.world import FAULTS, HISTORY_LIMIT, World

_MOST_PAGES = 5
_MOST_COPIES = 3
_WHICH = st.integers(0, 11)
"""Chooses one of several pages, nodes or copies."""
_PLANS = st.sampled_from(sorted(PLANS))


class Sessions(RuleBasedStateMachine):
    """Clients, faults of nodes and of the database, in any order."""

    clock = DatabaseClock()

    def __init__(self) -> None:
        super().__init__()
        self._empty = Copy()

    @initialize(seed=st.integers(0, 2**16))
    def begin(self, seed: int) -> None:
        self.world = World(seed)
        self.clock.now = self.world
        self.number = 0
        self.open_page(0, is_new=True)
        self.say(0, "quick")
        self.world.advance(1)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.world.rest()
        finally:
            self.clock.now = lambda: 0
            self.world.close()
            self._empty.restore()
            self._empty.close()

    # Clients

    @precondition(lambda self: len(self.world.pages) < _MOST_PAGES)
    @rule(which=_WHICH, is_new=st.booleans())
    def open_page(self, which: int, is_new: bool) -> None:
        """Open a page of a known session, or of a new one."""
        used = sorted({one.session for one in self.world.pages if one.acked})
        session = "new" if is_new or not used else used[which % len(used)]
        page = Page(f"page{len(self.world.pages)}", session)
        self.world.pages.append(page)
        self._connect(page, which)

    @rule(which=_WHICH, node=_WHICH)
    def connect(self, which: int, node: int) -> None:
        page = self._page(which)
        if not page.is_gone:
            self._connect(page, node)

    @rule(which=_WHICH, plan=_PLANS)
    def say(self, which: int, plan: str) -> None:
        self.number += 1
        self.world.messages[self.number] = plan
        self._page(which).say(self.number, plan)
        self.world.advance(0)

    @rule(which=_WHICH)
    def flood(self, which: int) -> None:
        """Send so many messages that all entries before them are trimmed."""
        for _ in range(HISTORY_LIMIT // 2):
            self.say(which, "quick")
            self.world.advance(0.1)

    @rule(which=_WHICH, count=st.integers(1, 3))
    def repeat(self, which: int, count: int) -> None:
        """Send some messages again, also those whose ack came."""
        page = self._page(which)
        for message_id in sorted(page.sent)[-count:]:
            if message_id not in page.refused:
                page.send_again(message_id)
        self.world.advance(0)

    @rule(which=_WHICH)
    def cancel(self, which: int) -> None:
        """Stop what streams to a page."""
        self.world.cancel(self._page(which))

    @rule(which=_WHICH, how=st.sampled_from(("cut", "stops reading", "reads")))
    def hinder(self, which: int, how: str) -> None:
        """Cut a page off, or let it stop to read or begin again."""
        page = self._page(which)
        if how == "cut":
            page.cut()
        elif how == "reads":
            page.reads.set()
        else:
            page.reads.clear()
        self.world.advance(0)

    # Faults

    @rule(which=_WHICH, kind=st.sampled_from(FAULTS))
    def fault(self, which: int, kind: str) -> None:
        """Disturb the node of a page, or its database."""
        self.world.fault(self._page(which), kind)

    @precondition(lambda self: len(self.world.saved) < _MOST_COPIES)
    @rule()
    def save(self) -> None:
        self.world.save()

    @precondition(lambda self: self.world.saved)
    @rule(which=_WHICH)
    def travel(self, which: int) -> None:
        self.world.travel(self.world.saved[which % len(self.world.saved)])

    # Time

    @rule(seconds=st.sampled_from((0.001, 0.01, 0.1, 0.5, 2, 6, 20)))
    def advance(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule()
    def rest(self) -> None:
        """Heal everything and let all agree."""
        self.world.rest()

    def _page(self, which: int) -> Page:
        return self.world.pages[which % len(self.world.pages)]

    def _connect(self, page: Page, which: int) -> None:
        sites = self.world.sites
        self.world.run(page.connect(sites[which % len(sites)].node))
        self.world.advance(0)
