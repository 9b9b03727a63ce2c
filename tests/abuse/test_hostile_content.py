"""Test that hostile text stays text in logs, metrics, pages and the database."""

import asyncio
import contextlib
import re
import sqlite3
from collections.abc import Callable
from urllib.parse import quote

import pytest
from websockets.asyncio.client import connect

from connections.testing import LiveServer, RawClient, build_request, wait_until
from connections.testing.waiting import scale
from tests.abuse.attack import Attack, read_answer
from tests.abuse.corpus import ATTACKS
from tests.abuse.records import find_odd_lines, read_metrics
from tests.abuse.watch import Arena

pytestmark = pytest.mark.slow

INJECTIONS = (
    "'; DROP TABLE connections_connection; --",
    '" OR 1=1 --',
    "<script>alert(1)</script>",
    "$(touch /tmp/owned); `id`; | id",
    "{{ 7 * 7 }} {% debug %} %(x)s {0.__class__}",
    "../../../../etc/passwd",
    "line\r\nSet-Cookie: x=1\r\n\r\n",
)

FORGED = "2026-01-01 00:00:00,000 CRITICAL connections forged"

PATHS = (
    f"\n{FORGED}",
    f"\r\n{FORGED}",
    f"\x0b{FORGED}",
    f"\x85{FORGED}",
    f"\u2028{FORGED}",
    "\x1b[2J\x1b[1;31mred",
    "\x00\x08\x7f",
    "\u202eesrever",
    "%s%n%(asctime)s{0.__class__}",
    'a"b\\c{d="e"} 1',
    "x" * 12_000,
)
"""Request paths, %-encoded on the wire."""


async def send_everywhere(server: LiveServer, text: str) -> None:
    """Send a text in the path, the origin, the token and the agent."""
    path = f"/echo/{quote(text, safe='')}"
    origin = f"Origin: http://127.0.0.1:{server.port}"
    header = text.encode("utf-8").decode("latin-1").translate({13: 9, 10: 9, 0: 9})
    requests = (
        (origin,),
        ("Origin: https://evil.example",),
        (f"Origin: {header[:9000]}",),
        (origin, f"Authorization: Bearer {header[:9000]}"),
        (origin, f"User-Agent: {header[:9000]}"),
    )
    sent = [
        build_request(asked, server.port, *headers)
        for headers in requests
        for asked in (path, "/echo/")
    ]
    over_http = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n"
    for request in (*sent, over_http.encode()):
        client = await RawClient.connect(server.port, source="127.253.0.1")
        await client.send(request)
        await read_answer(client, 0.3)
        client.close()


async def test_hostile_text_makes_no_line_of_a_log_and_no_series(
    find_arena: Callable[[Attack], Arena],
) -> None:
    arena = find_arena(ATTACKS[0])
    server = arena.server
    log_size, series = len(server.log()), count_series(server)
    await asyncio.gather(*(send_everywhere(server, text) for text in PATHS))
    # A slow server may not have read all that was sent.
    await wait_until(lambda: "forged" in arena.access_log())
    await wait_until(
        lambda: all(one in server.log()[log_size:] for one in ("was refused", "forged"))
    )
    log, accesses = server.log()[log_size:], arena.access_log()
    assert find_odd_lines(log) == []
    assert "was refused" in log
    access = re.compile(r"127\.\d+\.\d+\.\d+:\d+ - - \[[^]]+\] \"")
    assert [line for line in accesses.splitlines() if not access.match(line)] == []
    assert "forged" in log
    assert "forged" in accesses
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", log + accesses) is None
    assert max(map(len, accesses.splitlines())) < 700
    assert count_series(server) <= series + 10
    assert "forged" not in read_metrics(server)


def count_series(server: LiveServer) -> int:
    return sum(line[0] != "#" for line in read_metrics(server).splitlines() if line)


async def test_hostile_text_stays_text(find_arena: Callable[[Attack], Arena]) -> None:
    """In messages, in client ids and in headers."""
    server = find_arena(ATTACKS[0]).server
    database = sqlite3.connect(server.folder / "db.sqlite3")
    with contextlib.closing(database):
        tables = "SELECT name FROM sqlite_master"
        before = database.execute(tables).fetchall()
        for text in INJECTIONS[:3]:
            token = server.create_token(text)
            async with connect(
                f"{server.ws_url}/echo/",
                additional_headers={"Authorization": f"Bearer {token}"},
                user_agent_header=text,
                open_timeout=scale(20),
            ) as connection:
                for payload in INJECTIONS:
                    await connection.send(payload)
                    assert await connection.recv() == payload
        agents = "SELECT client_id FROM connections_connection WHERE user_agent = ?"

        def are_recorded() -> bool:
            return all(
                database.execute(agents, (text,)).fetchall() == [(text,)]
                for text in INJECTIONS[:3]
            )

        await wait_until(are_recorded)
        assert database.execute(tables).fetchall() == before
