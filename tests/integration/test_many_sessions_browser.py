"""Test six sessions on one connection of a page in Chromium, on two nodes."""

from typing import Any

from connections.client import SessionClient
from connections.testing import Servers, wait_until
from connections.testing.proxy import Proxy
from connections.testing.waiting import scale
from tests.integration.browser import open_browser
from tests.integration.redis_process import RedisProcess
from tests.integration.six_sessions import (
    COUNT,
    LONG,
    SHORT,
    read_gauge,
    start_pair,
)

_OPEN = """
async ([token, count, message]) => {
    const { SharedConnection } = await import("/static/connections/shared.js");
    window.shared = new SharedConnection("/ws/sessions/", { getToken: () => token });
    window.doubled = [];
    window.clients = Array.from({ length: count }, () => shared.session());
    for (const client of clients) {
        const done = new Set();
        const take = ({ detail: { entry } }) => {
            if (entry.state !== "done") return;
            if (done.has(entry.offset)) doubled.push([client.session, entry.offset]);
            done.add(entry.offset);
        };
        client.addEventListener("entry", take);
        client.addEventListener("ended", take);
        client.connect();
    }
    await Promise.all(clients.map((client) => client.request(message)));
    return clients.map((client) => client.session);
}
"""
_ASK = """
(message) => { for (const client of clients.slice(0, 3)) client.send(message); }
"""
_READ = """
() => clients.map(({ entries }) => entries.map(
    ({ offset, state, data }) => [offset, state, data.text ?? ""]
))
"""


async def test_a_page_loses_nothing_of_six_sessions_when_its_node_is_killed(
    servers: Servers, redis_process: RedisProcess
) -> None:
    first, second = start_pair(servers, redis_process)
    token = first.create_token()
    async with Proxy(first.port) as proxy, open_browser() as browser:
        page = await browser.new_page()
        page.set_default_timeout(scale(15_000))
        await page.goto(f"http://127.0.0.1:{proxy.port}/")
        sessions: list[str] = await page.evaluate(_OPEN, [token, COUNT, SHORT])
        assert len(set(sessions)) == COUNT
        assert await read_gauge(first, "websocket_attached_sessions") == COUNT
        assert await read_gauge(first, "active_websocket_connections") == 1

        async def read() -> list[list[Any]]:
            shown: list[list[Any]] = await page.evaluate(_READ)
            return shown

        async def have_ended(offset: int) -> bool:
            return all(
                entries
                and entries[-1][0] == offset
                and all(state != "streaming" for _, state, _ in entries)
                for entries in await read()
            )

        async def are_streaming() -> bool:
            return all(
                entries[-1][1] == "streaming" and entries[-1][2]
                for entries in await read()
            )

        await wait_until(lambda: have_ended(2), 40)
        await page.evaluate(_ASK, LONG)
        url = f"{second.ws_url}/ws/sessions/"
        for session in sessions[3:]:
            async with SessionClient(url, token=token, session=session) as other:
                await other.request(LONG)
        await wait_until(are_streaming, 40)
        proxy.target_port = second.port
        first.kill()
        await wait_until(lambda: have_ended(4), 60)
        assert await page.evaluate("doubled") == []
        assert await page.evaluate("shared.isShared") is True
        for session, entries in zip(sessions, await read(), strict=True):
            async with SessionClient(url, token=token, session=session) as late:

                def is_whole(late: SessionClient = late) -> bool:
                    return len(late.entries) == 4

                await wait_until(is_whole)
                logged = [[one.offset, one.state, one.text] for one in late.entries]
                assert logged == entries
