"""Nodes reduced to the fan-out of their sessions, over one database and one bus."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from asgiref.sync import sync_to_async

from connections.bus import Bus
from connections.passes import Passes
from connections.storage.database import Database
from connections.testing.waiting import wait_until
from sessions_history.attached import AttachedConnections
from sessions_history.chain import Mark
from sessions_history.commits import commit
from sessions_history.entries import Committed, Request
from sessions_history.fan_out import FanOut
from sessions_history.reads import Claim
from sessions_history.subscribers import Subscriber
from tests.connections.live_connections import make_connection
from tests.sessions_history.appends import LIMITS


class SharedBus(Bus):
    """A bus between the sites of one process, which a test can cut."""

    is_subscribed = True
    refuses = False
    """True to take no message, as a database that is away."""

    def __init__(self, members: list["SharedBus"]) -> None:
        super().__init__()
        members.append(self)
        self._members = members
        self.is_cut = False
        """True to lose what this site sends."""
        self.may_send = asyncio.Event()
        """Cleared to let what this site sends wait."""
        self.may_send.set()
        self.waiting = 0

    async def start(self) -> None:
        return

    async def publish(self, kind: str, message: Mapping[str, Any]) -> bool:
        self.waiting += 1
        await self.may_send.wait()
        self.waiting -= 1
        if self.refuses:
            return False
        if not self.is_cut:
            text = json.dumps({**message, "kind": kind})
            for one in self._members:
                one.hand_on("all", text)
        return True

    async def close(self) -> None:
        return


@dataclass
class Screen:
    """What one client was sent, and its claim."""

    subscriber: Subscriber
    epoch: str
    position: int
    mark: Mark | None
    outcome: str
    shown: list[Any] = field(default_factory=list)
    """The payloads of the entries."""

    @property
    def claim(self) -> Claim:
        return Claim(epoch=self.epoch, offset=self.position, mark=self.mark)

    async def send(self, text: str) -> None:
        message = json.loads(text)
        self.mark = Mark.parse(message.get("chain") or "") or self.mark
        if message["type"] == "entry":
            self.position = message["offset"]
            self.shown.append(message["data"])


class Site:
    """The fan-out of one node, which checks positions when a test says so."""

    def __init__(self, name: str, buses: list[SharedBus]) -> None:
        self.bus = SharedBus(buses)
        self._database = Database()
        self.fan_out = FanOut(
            self._database,
            node_id=name,
            redis_url=None,
            passes=Passes(),
            bus=self.bus,
        )
        self._attached = AttachedConnections(
            self._database, self.fan_out, touch=lambda session_id: None
        )
        self._screens: list[Screen] = []

    async def attach(self, session_id: str, claim: Claim | None = None) -> Screen:
        """Attach a client with a claim; without one it holds nothing."""
        connection = make_connection(f"c{len(self._screens)}", client_id="alice")
        screens: list[Screen] = []

        async def send(text: str) -> None:
            await screens[0].send(text)

        attached = await self._attached.attach(
            session_id, claim or Claim(), connection=connection, send=send
        )
        position, resumption = attached.position, attached.resumption
        screen = Screen(
            attached.subscriber,
            position.epoch,
            resumption.position,
            position.mark,
            resumption.outcome,
        )
        screens.append(screen)
        self._screens.append(screen)
        await attached.subscriber.start(resumption.position, mark=position.mark)
        return screen

    def detach(self, screen: Screen) -> None:
        self._attached.detach(screen.subscriber)

    async def commit(self, request: Request) -> Committed:
        """Commit a request, and report nothing."""
        (result,) = await sync_to_async(commit)([request], LIMITS)
        assert isinstance(result, Committed)
        return result

    async def append(self, *requests: Request) -> None:
        """Commit appends, and report each as a node does."""
        for request in requests:
            committed = await self.commit(request)
            self.fan_out.send_appended(request.session_id, committed)
            await self.fan_out.flush()

    async def close(self) -> None:
        for screen in self._screens:
            screen.subscriber.close()
        await self.fan_out.close()
        await self._database.close()


@asynccontextmanager
async def make_sites(count: int) -> AsyncIterator[list[Site]]:
    buses: list[SharedBus] = []
    sites = [Site(f"node{number}", buses) for number in range(count)]
    try:
        yield sites
    finally:
        for site in sites:
            await site.close()


async def wait_for(screen: Screen, shown: list[Any]) -> None:
    """Wait until a client was sent some payloads."""
    await wait_until(lambda: screen.shown == shown)


async def wait_for_reset(screen: Screen) -> None:
    """Wait until a client has to attach anew."""
    await wait_until(lambda: screen.subscriber.tail.is_reset)
