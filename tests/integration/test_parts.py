"""Test answers in parts on live processes, for clients of both versions."""

from collections.abc import Callable
from typing import Any

from connections.client import Entry, SessionClient
from connections.testing import LiveServer, Servers, wait_until
from connections.testing.waiting import scale
from tests.integration.responders import QUERY
from tests.integration.session_client import SESSION_CONFIG
from tests.integration.session_client import SessionClient as FirstVersionClient

TEXT = "Wait. The moon."
PARTS = [
    {"id": "text", "type": "text", "text": "Wait. "},
    {
        "id": "r",
        "type": "reasoning",
        "author": "researcher",
        "text": "I look it up.",
    },
    {
        "id": "c",
        "type": "tool_call",
        "author": "researcher",
        "name": "search",
        "state": "done",
        "arguments": QUERY,
        "result": ["the moon"],
    },
    {"id": "text-3", "type": "text", "text": "The moon."},
    {"id": "u", "type": "usage", "input_tokens": 7, "output_tokens": 9},
]


def start(servers: Servers) -> LiveServer:
    return servers.start(
        config=SESSION_CONFIG,
        environment={"SESSIONS_RESPONDER": "tests.integration.responders.Calling"},
    )


def find(client: SessionClient, offset: int) -> Entry | None:
    return next((one for one in client.entries if one.offset == offset), None)


def arguments(client: SessionClient, offset: int) -> str:
    """Return the arguments of the call so far."""
    entry = find(client, offset)
    calls = [one for one in entry.parts if one["id"] == "c"] if entry else []
    return str(calls[0].get("arguments", "")) if calls else ""


def is_amid(client: SessionClient, offset: int, least: int) -> Callable[[], bool]:
    return lambda: least <= len(arguments(client, offset)) < len(QUERY)


def has_ended(client: SessionClient, offset: int) -> Callable[[], Any]:
    def check() -> bool:
        entry = find(client, offset)
        return entry is not None and not entry.is_streaming

    return check


async def test_a_page_that_returns_amid_a_call_and_one_of_the_first_version(
    servers: Servers,
) -> None:
    server = start(servers)
    token = server.create_token()
    url = f"{server.ws_url}/ws/sessions/"
    async with SessionClient(url, token=token) as page:
        await page.request({"pause_seconds": scale(0.02)})
        first = await FirstVersionClient(token, page.session).connect(server)
        for least in (10, 60):
            await wait_until(is_amid(page, 2, least))
            before = page.hello["connection"]
            page.drop()
            await wait_until(lambda: page.hello["connection"] != before)  # noqa: B023
        await wait_until(has_ended(page, 2))
        await first.wait(lambda: first.entries[2]["state"] == "done")
        entry = find(page, 2)
        assert entry is not None
        assert (entry.state, entry.text, entry.parts) == ("done", TEXT, PARTS)
        assert first.entries[2]["data"] == {"text": TEXT}
        assert "parts" not in first.entries[2]
        async with SessionClient(url, token=token, session=page.session) as late:
            await wait_until(has_ended(late, 2))
            assert late.entries == page.entries
        await first.cut()


async def test_a_call_amid_which_the_node_is_killed_keeps_its_arguments(
    servers: Servers,
) -> None:
    server = start(servers)
    token = server.create_token()
    async with SessionClient(f"{server.ws_url}/ws/sessions/", token=token) as page:
        await page.request({"pause_seconds": scale(0.05)})
        first = await FirstVersionClient(token, page.session).connect(server)
        await wait_until(is_amid(page, 2, 40))
        server.kill()
        await first.wait_disconnected()
        server.start()
        await first.return_to(server)
        await wait_until(has_ended(page, 2))
        await first.wait(lambda: first.entries[2]["state"] == "interrupted")
        entry = find(page, 2)
        assert entry is not None
        kept = arguments(page, 2)
        assert entry.state == "interrupted"
        assert kept
        assert QUERY.startswith(kept)
        assert [one["id"] for one in entry.parts] == ["text", "r", "c"]
        assert first.entries[2]["data"]["text"] == entry.text == "Wait. "
        await page.request({"pause_seconds": 0})
        await wait_until(has_ended(page, 4))
        answer = find(page, 4)
        assert answer is not None
        assert (answer.state, answer.parts) == ("done", PARTS)
        await first.cut()
