"""Clients of both kinds that converse through cuts, kills and expiring tokens."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from benchmarks.soak.cluster import Cluster
from benchmarks.soak.records import Records, Row
from connections.client import Attached, RequestFailed, SessionClient, State
from connections.testing import Proxy
from tests.connections.jwt_provider import AUDIENCE, ISSUER, SECRET, SigningKey

_PAGES = Path(__file__).with_name("pages.mjs")
_ANSWER: dict[str, Any] = {"count": 8, "pause_seconds": 0.4}
_EXPECTED = "".join(f"{number} 👩‍👩‍👧 e\u0301 " for number in range(_ANSWER["count"]))
"""The text of tests.integration.responders.Counting."""

_TOKEN_SECONDS = (25, 30)
"""The least life of a token, and how much longer it may be."""
_PAUSE_SECONDS = (2.0, 8.0)
_FAULT_SECONDS = (4.0, 12.0)
_CUT_SECONDS = 4.0
_PATIENCE_SECONDS = 120.0
"""How long a client may stand still before it has settled."""

_COPY_SECONDS = 10.0
_OVERLAP = 500
"""How often the log is copied, and how many entries are read once more."""
_WAYS = 4
"""How many ways lead from clients to nodes, each of which can be cut."""

CONFIG: dict[str, object] = {
    "max_session_history": 100,
    "ping_interval_seconds": 5,
    "ping_timeout_seconds": 5,
    "jwt__issuer": ISSUER,
    "jwt__audience": AUDIENCE,
    "jwt__leeway_seconds": 0,
    "expiry__warning_seconds": 10,
    "expiry__grace_seconds": 3,
}
ENVIRONMENT = {"JWT_SECRET": SECRET}


class Talker:
    """A Python client that converses until it is told to end."""

    def __init__(
        self, name: str, url: str, records: Records, chance: random.Random
    ) -> None:
        self._name = name
        self._url = url
        self._records = records
        self._chance = chance
        self._key = SigningKey("HS256", "")
        self._number = 0
        self._requests: set[asyncio.Task[None]] = set()
        self._following: list[asyncio.Task[None]] = []
        self._client: SessionClient
        self._open("new")

    async def run(self, over: asyncio.Event) -> None:
        """Converse until the event, then wait until all is settled."""
        while not over.is_set():
            least, more = _PAUSE_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(least + self._chance.random() * more):
                    await over.wait()
            await self._act()
        progress, since = (-1, -1), time.monotonic()
        while self._requests or self._is_behind():
            # The client has no event for all of this.
            await asyncio.sleep(0.5)
            held = self._client.entries
            now = len(self._requests), held[-1].offset if held else 0
            if now != progress:
                progress, since = now, time.monotonic()
            elif time.monotonic() - since > _PATIENCE_SECONDS:
                break
        entries = [[one.offset, one.state, one.data] for one in self._client.entries]
        self._report("over", entries=entries, pending=len(self._requests), stored=0)
        await self._client.close()
        await asyncio.gather(*self._requests, *self._following)

    async def _act(self) -> None:
        chance = self._chance.random()
        streaming = [one for one in self._client.entries if one.is_streaming]
        if chance < 0.06:
            self._client.drop()
        elif chance < 0.1 and self._client.session != "new":
            self._report("reloaded")
            await self._client.close()
            self._open(self._client.session)
        elif chance < 0.2 and streaming:
            await self._client.cancel(streaming[0].offset)
        else:
            task = asyncio.create_task(self._request(self._client))
            self._requests.add(task)
            task.add_done_callback(self._requests.discard)

    async def _request(self, client: SessionClient) -> None:
        self._number += 1
        number = self._number
        self._report("sent", number=number)
        try:
            ack = await client.request(
                {"client": self._name, "number": number, **_ANSWER}
            )
        except RequestFailed as exc:
            self._report("failed", number=number, code=exc.code)
        else:
            self._report("acked", number=number, offset=ack.offset)

    def _open(self, session: str) -> None:
        self._client = SessionClient(
            self._url, session=session, get_token=self._get_token, entry_limit=1_000_000
        )
        self._following.append(asyncio.create_task(self._follow(self._client)))
        self._client.connect()

    async def _follow(self, client: SessionClient) -> None:
        async for event in client.events():
            if isinstance(event, Attached):
                self._report("hello", outcome=event.outcome)

    def _get_token(self, is_expired: bool) -> str:
        if is_expired:
            self._report("renewed")
        least, more = _TOKEN_SECONDS
        ends_at = int(time.time()) + least + self._chance.randrange(more)
        return self._key.sign(sub=self._name, exp=ends_at)

    def _is_behind(self) -> bool:
        client = self._client
        held = client.entries
        is_whole = client.state is State.OPEN and bool(client.hello)
        last = held[-1].offset if held else 0
        is_whole = is_whole and last >= client.hello["offset"]
        return not is_whole or any(entry.is_streaming for entry in held)

    def _report(self, event: str, **content: Any) -> None:
        session = self._client.session
        self._records.take(
            {"client": self._name, "event": event, "session": session, **content}
        )


async def converse(
    cluster: Cluster, *, seconds: float, clients: int, seed: int
) -> Records:
    """Run clients of both kinds under faults; then let all settle, and compare."""
    records = Records(_EXPECTED)
    chance = random.Random(seed)
    async with contextlib.AsyncExitStack() as stack:
        ways = []
        for number in range(_WAYS):
            target = cluster.nodes[number % len(cluster.nodes)]
            ways.append(await stack.enter_async_context(Proxy(target.port)))
        urls = [f"ws://127.0.0.1:{way.port}/ws/sessions/" for way in ways]
        over = asyncio.Event()
        talkers = [
            Talker(f"py{n}", urls[n % _WAYS], records, chance)
            for n in range(clients // 2)
        ]
        pages = await _start_pages(urls, clients - clients // 2)
        reading = asyncio.create_task(_read_pages(pages, records))
        talking = [asyncio.create_task(talker.run(over)) for talker in talkers]
        log = LogCopy(cluster)
        copying = asyncio.create_task(log.keep())
        began = time.monotonic()
        while (left := began + seconds - time.monotonic()) > 0:
            least, more = _FAULT_SECONDS
            await asyncio.sleep(min(left, least + chance.random() * more))
            await _disturb(cluster, ways, records, chance)
            if pages.returncode is not None:
                records.problems.append("the pages ended before their time")
                break
        over.set()
        if pages.stdin is not None and pages.returncode is None:
            pages.stdin.write(b"over\n")
            await pages.stdin.drain()
        await asyncio.gather(*talking)
        await reading
        await pages.wait()
        copying.cancel()
        await log.update()
    records.problems = records.compare(log.rows)
    return records


async def _disturb(
    cluster: Cluster, ways: Sequence[Proxy], records: Records, chance: random.Random
) -> None:
    """Cause one fault, and end it."""
    way = chance.choice(ways)
    fault = chance.choice(("kill", "drain", "reset", "silence", "cut", "move"))
    records.counts[f"fault {fault}"] += 1
    if fault in ("kill", "drain"):
        node = chance.choice(cluster.nodes)
        others = [one.port for one in cluster.nodes if one is not node]
        for one in ways:
            if others and one.target_port == node.port:
                # A load balancer sends new connections to the nodes that are up.
                one.target_port = chance.choice(others)
        await (cluster.kill(node) if fault == "kill" else cluster.drain(node))
    elif fault == "reset":
        way.reset()
    elif fault == "silence":
        way.silence()
    elif fault == "cut":
        way.cut()
        await asyncio.sleep(_CUT_SECONDS)
        way.mend()
    for one in ways:
        one.target_port = chance.choice(cluster.nodes).port


async def _start_pages(urls: Sequence[str], clients: int) -> asyncio.subprocess.Process:
    options = {
        "urls": urls,
        "clients": clients,
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "secret": SECRET,
        "life": _TOKEN_SECONDS,
        "answer": _ANSWER,
        "pause": [1000 * seconds for seconds in _PAUSE_SECONDS],
        "patience": 1000 * _PATIENCE_SECONDS,
    }
    return await asyncio.create_subprocess_exec(
        *("node", "--experimental-websocket", "--no-warnings"),
        *(str(_PAGES), json.dumps(options)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**26,
    )


async def _read_pages(pages: asyncio.subprocess.Process, records: Records) -> None:
    if pages.stdout is not None:
        async for line in pages.stdout:
            records.take(json.loads(line))


class LogCopy:
    """A copy of the whole log, which keeps what is trimmed."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._rows: dict[int, Row] = {}
        self._open: set[int] = set()

    @property
    def rows(self) -> Collection[Row]:
        """The entries, each as it was read last."""
        return self._rows.values()

    async def keep(self) -> None:
        """Read what is new, again and again, until cancelled."""
        while True:
            await self.update()
            await asyncio.sleep(_COPY_SECONDS)

    async def update(self) -> None:
        """Read the entries that are new, or that streamed when they were read."""
        await asyncio.to_thread(self._update)

    def _update(self) -> None:
        # Transactions end in another order than that of the ids they took.
        last = max(self._rows, default=0) - _OVERLAP
        listed = ", ".join(map(str, self._open)) or "0"
        found = self._cluster.store.ask(
            'select id, session_id, "offset", sender, state, data'
            f" from sessions_history_historyentry where id > {last} or id in ({listed})"
        )
        for id_, session, offset, sender, state, data in found:
            self._rows[int(id_)] = Row(
                session=session,
                offset=int(offset),
                sender=sender,
                state=state,
                data=json.loads(data),
            )
            update = self._open.add if state == "streaming" else self._open.discard
            update(int(id_))
