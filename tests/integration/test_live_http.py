"""Test connections over plain HTTP on live servers: slots, records, ends."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from connections.client import SessionClient
from connections.models import AccessToken, Connection
from connections.testing import LiveServer, Servers, wait_until
from connections.testing.waiting import scale
from tests.integration.event_stream import EventStream, open_events
from tests.project import ProjectServers
from tests.sessions_history.session_document import check_answer

CONFIG: dict[str, object] = {
    "node__beat_seconds": 0.2,
    "sessions__position_seconds": 0.5,
    "drain__grace_seconds": 4,
}
COUNTING = {"SESSIONS_RESPONDER": "tests.integration.responders.Counting"}
COUNT = {"text": "count", "count": 20, "pause_seconds": 0.02}


@pytest.fixture
def server(shared_servers: ProjectServers) -> LiveServer:
    """A server of several tests, each of which has a client of its own."""
    return shared_servers.share(config=CONFIG, environment=COUNTING)


def connect(server: LiveServer, token: str, session: str = "new") -> SessionClient:
    return SessionClient(f"{server.ws_url}/ws/sessions/", token=token, session=session)


def make_url(server: LiveServer, session: str, query: str) -> str:
    return f"{server.url}/api/sessions/{session}/stream/?{query}"


async def fill(server: LiveServer, token: str, *texts: str) -> str:
    """Make a session with some messages; return its id."""
    async with connect(server, token) as client:
        for text in texts:
            await client.request({"text": text}, answer=False)
        assert client.session is not None
        return client.session


async def get(server: LiveServer, session: str, token: str, query: str) -> Any:
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(timeout=scale(60)) as client:
        url = make_url(server, session, query)
        answer = await client.get(url, headers=headers)
    check_answer("GET", url.removeprefix(server.url), b"", answer)
    return answer


async def post(server: LiveServer, session: str, token: str, items: list[Any]) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(timeout=scale(60)) as client:
        url = make_url(server, session, "")
        answer = await client.post(url, headers=headers, json=items)
        assert answer.status_code == 204, answer.text


def read_records(server: LiveServer, **wanted: Any) -> list[Connection]:
    rows = Connection.objects.filter(**wanted).order_by("opened_at")
    return server.run(lambda: list(rows))


@asynccontextmanager
async def follow(
    server: LiveServer, token: str, session: str, query: str = "offset=-1"
) -> AsyncIterator[EventStream]:
    """Open server-sent events, once their slot is taken."""
    url = make_url(server, session, f"live=sse&{query}")
    async with open_events(url, token) as events:
        assert events.response.status_code == 200, await events.response.aread()
        yield events


async def test_a_stream_ends_before_the_entry_that_grows(server: LiveServer) -> None:
    token = server.create_token("ann")
    session = await fill(server, token, "one", "two")
    page = await get(server, session, token, "")
    assert page.json() == [{"text": "one"}, {"text": "two"}]
    assert page.headers["stream-up-to-date"] == "true"
    after = page.headers["stream-next-offset"]
    async with (
        follow(server, token, session, f"offset={after}") as events,
        connect(server, token, session) as client,
    ):
        name, control = await events.read()
        assert (name, control["upToDate"]) == ("control", True)
        assert control["streamNextOffset"] == after
        await client.request(COUNT)
        await client.request({"text": "last"}, answer=False)
        # The answer is one item, once it is whole.
        got: list[Any] = []
        while len(got) < 3:
            got += await events.read_until("data")
        assert got[0] == COUNT
        assert got[1]["text"].count("👩‍👩‍👧") == COUNT["count"]
        assert got[2] == {"text": "last"}
        end = (await events.read_until("control"))["streamNextOffset"]
    assert end > after
    whole = await get(server, session, token, f"offset={after}")
    assert (whole.json(), whole.headers["stream-next-offset"]) == (got, end)


async def test_a_long_poll_waits_for_an_entry_and_is_a_record(
    server: LiveServer,
) -> None:
    token = server.create_token("ben")
    session = await fill(server, token, "one")
    first = await get(server, session, token, "offset=-1&live=long-poll")
    assert (first.status_code, first.json()) == (200, [{"text": "one"}])
    assert first.headers["stream-cursor"].isdigit()
    after = first.headers["stream-next-offset"]
    poll = asyncio.create_task(
        get(server, session, token, f"offset={after}&live=long-poll")
    )
    records: list[Connection] = []

    def is_open() -> bool:
        records[:] = read_records(server, client_id="ben", closed_at=None)
        return bool(records)

    await wait_until(is_open)
    async with connect(server, token, session) as client:
        await client.request({"text": "two"}, answer=False)
    second = await poll
    assert (second.status_code, second.json()) == (200, [{"text": "two"}])
    ended = {"client_id": "ben", "transport": "long_poll", "reason": "closed"}
    await wait_until(lambda: len(read_records(server, **ended)) == 2)
    # The next poll of a client finds the slot of this one free. A socket may be
    # recorded as closed after it.
    await wait_until(lambda: not read_records(server, client_id="ben", closed_at=None))


async def test_server_sent_events_hold_a_slot_that_the_newest_takes(
    servers: Servers,
) -> None:
    server = servers.start(config={**CONFIG, "max_connections_per_client": 1})
    token = server.create_token()
    session = await fill(server, token, "one")
    async with follow(server, token, session) as first:
        await first.read_until("control")
        async with follow(server, token, session) as second:
            bye = await first.read_until("bye")
            assert (bye["code"], bye["reconnect"]) == (4005, "never")
            assert await first.read() == ("end", None)
            await second.read_until("control")
            # A socket counts as one of them.
            async with connect(server, token, session):
                assert (await second.read_until("bye"))["reason"] == "evicted"
    evicted = {"transport": "sse", "reason": "evicted"}
    await wait_until(lambda: len(read_records(server, **evicted)) == 2)
    assert read_records(server, transport="websocket")[0].route.startswith("ws/")


async def test_a_full_pool_answers_503_and_when_to_return(servers: Servers) -> None:
    limits = {"max_total_connections": 1, "max_connections_per_client": 1}
    server = servers.start(config={**CONFIG, **limits})
    token = server.create_token()
    session = await fill(server, token, "one")
    async with follow(server, token, session) as events:
        await events.read_until("control")
        other = server.create_token("bob")
        refused = await get(server, "new", other, "live=sse&protocol=orchestra.v2")
        assert refused.status_code == 503, refused.text
        assert refused.json()["error"]["close_code"] == 4103
        assert 5 <= int(refused.headers["retry-after"]) <= 15


async def test_a_quiet_response_has_comments_and_ends_when_idle(
    servers: Servers,
) -> None:
    config = {**CONFIG, "ping_interval_seconds": 0.2, "idle_timeout_seconds": 2}
    server = servers.start(config=config)
    token = server.create_token()
    session = await fill(server, token, "one")
    async with follow(server, token, session) as events:
        assert (await events.read_until("bye"))["reason"] == "idle"
        assert events.comments > 2


@pytest.mark.parametrize("command", ["daphne", "uvicorn"])
async def test_another_command_serves_them_too(servers: Servers, command: str) -> None:
    server = servers.start(config=CONFIG, command=command)
    token = server.create_token()
    session = await fill(server, token, "one")
    async with follow(server, token, session) as events:
        assert await events.read_until("data") == [{"text": "one"}]
        await wait_until(lambda: read_records(server, transport="sse", closed_at=None))
    # The client is gone.
    ended = {"transport": "sse", "reason": "closed", "close_code": 1001}
    await wait_until(lambda: read_records(server, **ended))


async def test_the_messages_of_a_socket_come_as_events(server: LiveServer) -> None:
    token = server.create_token("cleo")
    session = await fill(server, token, "one")
    query = "protocol=orchestra.v2"
    async with (
        follow(server, token, session, query) as events,
        connect(server, token, session) as client,
    ):
        hello = await events.read_until("message")
        assert (hello["type"], hello["session"]) == ("hello", session)
        await client.request(COUNT)
        text = ""
        while (message := await events.read_until("message"))["type"] != "state":
            if message["type"] == "delta":
                assert message["at_char"] == len(text)
                text += message["text"]
        assert text.count("👩‍👩‍👧") == COUNT["count"]


async def test_the_events_of_a_session_of_a_name(server: LiveServer) -> None:
    token = server.create_token("noa")
    async with httpx.AsyncClient(timeout=scale(20)) as client:
        headers = {"Authorization": f"Bearer {token}"}
        url = make_url(server, "notes", "")
        assert (await client.put(url, headers=headers, json=["a"])).status_code == 201
    async with follow(server, token, "notes", "protocol=orchestra.v2") as events:
        hello = await events.read_until("message")
        assert (hello["type"], hello["offset"]) == ("hello", 1)


def open_present(server: LiveServer, token: str, session: str) -> SessionClient:
    """Return a client of a socket that asks who is present."""
    url = f"{server.ws_url}/ws/sessions/"
    return SessionClient(url, token=token, session=session, presence=True)


async def test_a_reader_of_events_is_present_and_hears_who_is(
    shared_servers: ProjectServers,
) -> None:
    config = {**CONFIG, "presence__linger_seconds": 0.5}
    server = shared_servers.share(config=config)
    token = server.create_token("gil")
    session = await fill(server, token, "one")
    async with follow(server, token, session, "offset=-1&presence=1") as events:
        present = await events.read_until("message")
        (own,) = present["members"]
        assert present["type"] == "present"
        joined = await events.read_until("message")
        assert (joined["type"], joined["members"]) == ("presence.joined", [own])
        async with open_present(server, token, session) as client:
            await wait_until(lambda: set(client.presence.members) == {own["member"]})
            await client.presence.set_typing(True)
            typing = await events.read_until("message")
            assert (typing["type"], typing["active"]) == ("typing", True)
            assert typing["connection"] == client.hello["connection"]
            # Its entries come as before.
            await post(server, session, token, [{"text": "two"}, {"text": "three"}])
            items: list[Any] = []
            while {"text": "three"} not in items:
                items += await events.read_until("data")
    path = f"{server.url}/api/sessions/{session}/present/"
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(timeout=scale(60)) as http:

        async def is_empty() -> bool:
            answer = await http.get(path, headers=headers)
            return bool(answer.json() == {"members": []})

        await wait_until(is_empty)


async def test_a_client_that_polls_stays_present_and_hears_who_types(
    shared_servers: ProjectServers,
) -> None:
    """Between two polls it lingers: nobody is told that it left."""
    server = shared_servers.share(config={**CONFIG, "presence__linger_seconds": 60})
    token = server.create_token("hal")
    session = await fill(server, token, "one")
    page = await get(server, session, token, "offset=-1&live=long-poll&presence=1")
    assert (page.status_code, page.json()) == (200, [{"text": "one"}])
    after = page.headers["stream-next-offset"]
    query = f"offset={after}&live=long-poll&presence=1"
    heard: list[dict[str, Any]] = []

    async def poll_until(kind: str) -> dict[str, Any]:
        """Poll until an event ends a poll, without an entry."""
        async with asyncio.timeout(scale(60)):
            while True:
                answer = await get(server, session, token, query)
                assert answer.status_code == 204, answer.text
                assert answer.headers["stream-next-offset"] == after
                for text in answer.headers.get_list("session-event"):
                    heard.append(json.loads(text))
                    if heard[-1]["type"] == kind:
                        return heard[-1]

    async with open_present(server, token, session) as client:
        await wait_until(lambda: len(client.presence.members) == 1)
        polling = asyncio.create_task(poll_until("typing"))
        typing: dict[str, Any] | None = None
        while not polling.done():
            # An event between two polls is told to nobody.
            await client.presence.set_typing(True)
            await asyncio.wait({polling}, timeout=scale(2.5))
        typing = await polling
        assert typing["connection"] == client.hello["connection"]
        # A client of polls posts without naming a connection.
        headers = {"Authorization": f"Bearer {token}"}
        path = f"{server.url}/api/sessions/{session}/messages/"
        async with httpx.AsyncClient(timeout=scale(60)) as http:
            body = {"type": "typing", "active": True}
            answer = await http.post(path, headers=headers, json=body)
            assert (answer.status_code, answer.content) == (204, b"")
    assert "presence.left" not in {one["type"] for one in heard}


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_a_wrong_request_is_answered_before_a_slot(
    server: LiveServer, live: str
) -> None:
    token, foreign = server.create_token(live), server.create_token("bob")
    session = await fill(server, token, "one")
    offset = (await get(server, session, token, "")).headers["stream-next-offset"]
    ahead = f"{offset[:-1]}9"
    for who, query, status in (
        (token, f"live={live}", 400),
        (token, f"live={live}&offset=a,b", 400),
        (token, f"live={live}&offset=-1&presence=yes", 400),
        (token, f"live={live}&offset={ahead}", 400),
        (token, f"live={live}&offset=abc_0000000000000001", 410),
        (foreign, f"live={live}&offset=-1", 404),
        ("wrong", f"live={live}&offset=-1", 401),
        (token, "live=fast&offset=-1", 400),
    ):
        answer = await get(server, session, who, query)
        assert answer.status_code == status, (query, answer.text)
        assert json.loads(answer.content)["error"]["message"].endswith(".")
    found = read_records(server, client_id=live)
    assert {one.transport for one in found} == {"websocket"}


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_a_reader_of_which_entries_were_trimmed_is_told(
    shared_servers: ProjectServers, live: str
) -> None:
    """It does not go on behind them: its next request gets 410."""
    server = shared_servers.share(config={**CONFIG, "max_session_history": 5})
    token = server.create_token(f"slow-{live}")
    session = await fill(server, token, "one")
    offset = (await get(server, session, token, "")).headers["stream-next-offset"]
    items = [{"n": number} for number in range(10)]
    if live == "sse":
        async with follow(server, token, session, f"offset={offset}") as events:
            await events.read_until("control")
            await post(server, session, token, items)
            bye = await events.read_until("bye")
            assert (bye["code"], bye["resume"]) == (4208, True)
            assert await events.read() == ("end", None)
    else:
        query = f"offset={offset}&live=long-poll"
        poll = asyncio.create_task(get(server, session, token, query))
        opened = {"transport": "long_poll", "closed_at": None}
        await wait_until(lambda: read_records(server, **opened))
        await post(server, session, token, items)
        answer = await poll
        assert answer.status_code == 503, answer.text
        assert answer.json()["error"]["close_code"] == 4208
        assert "stream-next-offset" not in answer.headers
    answer = await get(server, session, token, f"offset={offset}&live={live}")
    assert answer.status_code == 410, answer.text


async def test_a_long_poll_takes_no_subprotocol(server: LiveServer) -> None:
    """The messages of a socket are a stream, and a poll is one answer."""
    token = server.create_token("dan")
    session = await fill(server, token, "one")
    for query in ("", "&offset=-1"):
        query = f"live=long-poll&protocol=orchestra.v2{query}"
        answer = await get(server, session, token, query)
        assert (answer.status_code, answer.json()["error"]["code"]) == (
            400,
            "invalid_parameter",
        )
    assert not read_records(server, client_id="dan", transport="long_poll")


async def test_live_requests_count_for_the_rate_of_their_client(
    shared_servers: ProjectServers,
) -> None:
    rates = {
        "rate_limit__messages_per_second": 0.01,
        "rate_limit__burst_messages": 3,
    }
    server = shared_servers.share(config={**CONFIG, **rates})
    token, other = server.create_token("eve"), server.create_token("fay")
    session = await fill(server, token, "one")
    for _ in range(3):
        answer = await get(server, session, token, "offset=-1&live=long-poll")
        assert answer.status_code == 200, answer.text
    for query in (
        "offset=-1&live=long-poll",
        "offset=-1&live=sse",
        "live=sse&protocol=orchestra.v2",
    ):
        answer = await get(server, session, token, query)
        assert answer.status_code == 429, answer.text
        assert answer.json()["error"]["close_code"] == 4129
        assert int(answer.headers["retry-after"]) >= 1
    polled = {"client_id": "eve", "transport": "long_poll"}
    await wait_until(lambda: len(read_records(server, **polled)) == 3)
    assert (await get(server, session, other, "offset=-1&live=sse")).status_code == 404


async def test_the_page_of_another_site_gets_nothing(server: LiveServer) -> None:
    url = make_url(server, "0" * 32, "live=sse&offset=-1")
    cookies = {"Cookie": "sessionid=abc"}
    for headers, status in (
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 401),
    ):
        async with open_events(url, headers={**cookies, **headers}) as events:
            assert events.response.status_code == status


@pytest.mark.parametrize(
    ("how", "reason"),
    [("kick", "kicked"), ("revoke", "revoked"), ("drain", "draining")],
)
async def test_an_end_from_outside_is_told(
    shared_servers: ProjectServers, how: str, reason: str
) -> None:
    # A server that drains is of no use to the other tests.
    if how == "drain":
        server = shared_servers.start(config=CONFIG)
    else:
        server = shared_servers.share(config=CONFIG, environment=COUNTING)
    token = server.create_token(how)
    session = await fill(server, token, "one")
    tokens = AccessToken.objects.filter(client_id=how)
    ends: dict[str, Callable[[], object]] = {
        "kick": lambda: server.call("connections", "kick", "--client", how),
        "drain": server.terminate,
        "revoke": lambda: server.run(tokens.delete),
    }
    async with follow(server, token, session) as events:
        await events.read_until("control")
        ending = asyncio.create_task(asyncio.to_thread(ends[how]))
        bye = await events.read_until("bye")
        assert bye["reason"] == reason
        assert (bye["after_ms"] is not None) == (how == "drain")
        assert await events.read() == ("end", None)
        await ending
