"""Test the Python client and the responders on live processes."""

import asyncio
import sys
from typing import Any

from connections.client import (
    Entry,
    EntryArrived,
    EntryCompleted,
    SessionClient,
    State,
)
from connections.testing import LiveServer, Servers, wait_until
from connections.testing.waiting import scale
from tests.orchestra.model_server import DONE, Model, event, serve_model

ECHO = {
    "SESSIONS_RESPONDER": "orchestra.responders.EchoResponder",
    "ECHO_DELAY_SECONDS": "0.01",
}


def start(servers: Servers, environment: dict[str, str], **options: Any) -> LiveServer:
    config = {"node__beat_seconds": 0.2, **options.pop("config", {})}
    return servers.start(config=config, environment=environment, **options)


def connect(server: LiveServer, **options: Any) -> SessionClient:
    return SessionClient(f"{server.ws_url}/ws/sessions/", **options)


async def ask(client: SessionClient, text: str) -> Entry:
    """Send a message; return the final answer."""
    before = len(client.entries)
    await client.request({"text": text})

    def is_answered() -> bool:
        return len(client.entries) >= before + 2 and not any(
            entry.is_streaming for entry in client.entries
        )

    await wait_until(is_answered, 30)
    return client.entries[-1]


async def test_two_clients_of_a_session_see_the_same(servers: Servers) -> None:
    server = start(servers, ECHO)
    token = server.create_token()
    async with connect(server, token=token) as first:
        assert (await ask(first, "one two")).text == "one two"
        async with connect(server, token=token, session=first.session) as second:
            seen: list[Entry] = []

            async def watch() -> None:
                async for one in second.events():
                    if isinstance(one, EntryArrived | EntryCompleted):
                        seen.append(one.entry)

            watching = asyncio.create_task(watch())
            await wait_until(lambda: len(second.entries) == 2)
            await ask(first, "three 👩‍👧 four")
            await wait_until(lambda: seen and seen[-1].offset == 4)
            assert second.entries == first.entries
        await watching


async def test_a_server_that_dies_loses_nothing_that_was_said(
    servers: Servers,
) -> None:
    """Messages sent during the outage arrive too, once and in order."""
    server = start(servers, {})
    token = server.create_token()
    async with connect(server, token=token) as client:
        asking = []
        for number in range(60):
            if number in (20, 40):
                server.kill()
                server.start()
            asking.append(asyncio.create_task(client.request({"text": str(number)})))
            await asyncio.sleep(0.01)
        acks = await asyncio.gather(*asking)
        await wait_until(lambda: len(client.entries) == 60)
        assert [ack.offset for ack in acks] == list(range(1, 61))
        assert [entry.text for entry in client.entries] == [str(n) for n in range(60)]


async def test_a_drained_client_returns_to_the_next_server(servers: Servers) -> None:
    server = start(servers, ECHO, config={"drain__grace_seconds": 2})
    async with connect(server, token=server.create_token()) as client:
        await ask(client, "before")
        assert server.terminate() == 0
        await wait_until(lambda: client.state is not State.OPEN)
        assert client.ended is not None
        said = asyncio.create_task(ask(client, "after"))
        server.start()
        assert (await said).text == "after"
        assert [one.offset for one in client.entries] == [1, 2, 3, 4]


async def test_a_session_of_another_client_is_not_found(
    servers: Servers,
) -> None:
    server = start(servers, {})
    async with connect(server, token=server.create_token("alice")) as alice:
        await alice.request({"text": "secret"})
        mallory = server.create_token("mallory")
        async with connect(server, token=mallory, session=alice.session) as stranger:
            await wait_until(lambda: stranger.state is State.CLOSED)
            assert stranger.ended is not None
            assert (stranger.ended.code, stranger.entries) == (4004, [])


async def test_a_model_that_fails_ends_an_answer_and_no_connection(
    servers: Servers,
) -> None:
    async with serve_model() as model:
        server = start(
            servers,
            {
                "SESSIONS_RESPONDER": "orchestra.responders.CompletionsResponder",
                "COMPLETIONS_BASE_URL": model.base_url,
                "COMPLETIONS_TIMEOUT_SECONDS": str(scale(0.5)),
            },
        )
        async with connect(server, token=server.create_token()) as client:
            await check_failures(client, model)
            assert client.state is State.OPEN
            assert len(client.entries) == 10


async def check_failures(client: SessionClient, model: Model) -> None:
    """Converse with a model that works, and that fails in four ways."""
    model.chunks = [event("I am "), event("well"), DONE]
    answer = await ask(client, "how are you?")
    assert (answer.text, answer.state) == ("I am well", "done")
    for chunks, status, text, error in (
        ([b"x"], "500 Oops", "", "HTTP 500"),
        ([b"<html>"], "200 OK", "", "broke off"),
        ([event("half an ")], "200 OK", "half an ", "broke off"),
        ([event("slow"), scale(5)], "200 OK", "slow", "no word from the model"),
    ):
        model.chunks, model.status = list(chunks), status  # type: ignore[arg-type]
        answer = await ask(client, "and now?")
        assert (answer.state, answer.text) == ("error", text)
        assert error in answer.data["error"]
    assert [one["role"] for one in model.asked["messages"]][-3:] == [
        "user",
        "assistant",
        "user",
    ]


async def test_the_command_prints_a_conversation(servers: Servers) -> None:
    server = start(servers, ECHO)
    command = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "connections.client"),
        *(f"{server.ws_url}/ws/sessions/", "--session", "new"),
        *("--token", server.create_token()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(scale(60)):
            out, errors = await command.communicate(b"hello there\n")
    finally:
        if command.returncode is None:
            command.kill()
    expected = "client: hello there\nserver: hello there\n"
    assert out.decode() == expected, errors.decode()
    assert b"session" in errors
    assert command.returncode == 0
