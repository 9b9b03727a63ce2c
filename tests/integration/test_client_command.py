"""Test python -m connections.client as a user at a terminal runs it."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from connections.testing import LiveServer
from connections.testing.waiting import scale
from tests.integration.echo import QUICK
from tests.project import ROOT, ProjectServers

_SECONDS = 60

Start = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start the command with an idle standard input."""
    started: list[Process] = []

    async def start(*arguments: str, **environment: str) -> Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "connections.client", *arguments),
            cwd=ROOT,
            env=os.environ | environment,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
def server(shared_servers: ProjectServers) -> LiveServer:
    return shared_servers.share(config=QUICK)


async def read_until(process: Process, text: str) -> str:
    """Return the output up to and including a line with a text."""
    output = ""
    assert process.stderr is not None
    async with asyncio.timeout(scale(_SECONDS)):
        while text not in output:
            line = await process.stderr.readline()
            assert line, output
            output += line.decode()
    return output


async def read_errors(process: Process) -> bytes:
    """Return the rest of the standard error."""
    assert process.stderr is not None
    return await process.stderr.read()


async def wait(process: Process) -> int:
    async with asyncio.timeout(scale(_SECONDS)):
        return await process.wait()


async def test_an_end_is_shown_at_once(server: LiveServer, start: Start) -> None:
    """The command exits without input and without a traceback."""
    token = server.create_token("at-a-terminal")
    client = await start(f"{server.ws_url}/ws/echo/", "--token", token)
    await read_until(client, "connected to")
    kick = ("connections", "kick", "--client", "at-a-terminal")
    await asyncio.to_thread(server.manage, *kick, is_checked=False)
    output = await read_until(client, "closed: ")
    assert output == "closed: 4009 kicked\n"
    assert await wait(client) == 1
    assert await read_errors(client) == b""


@pytest.mark.parametrize(
    ("path", "arguments", "expected"),
    [
        ("/ws/echo/", (), "closed: 4001 unauthenticated"),
        ("/ws/sessions/", ("--session", "new"), "closed (4001 unauthenticated)"),
    ],
)
async def test_a_refused_client_prints_the_reason_and_exits(
    server: LiveServer,
    start: Start,
    path: str,
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    client = await start(f"{server.ws_url}{path}", "--token", "wrong", *arguments)
    output = await read_until(client, "closed")
    assert expected in output
    assert await wait(client) == 1
    assert b"Traceback" not in await read_errors(client)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/ws/echo/", "127.0.0.1/ws/"])
async def test_an_invalid_url_is_named_in_one_line(start: Start, url: str) -> None:
    client = await start(url)
    assert await wait(client) == 2
    output = (await read_errors(client)).decode()
    assert f"{url!r} is not ws://HOST:PORT/PATH or wss://HOST/PATH" in output
    assert "Traceback" not in output


async def test_without_websockets_the_extra_is_named(
    tmp_path: Path, start: Start
) -> None:
    hiding = "import sys\nsys.modules['websockets'] = None\n"
    (tmp_path / "sitecustomize.py").write_text(hiding)
    client = await start("ws://127.0.0.1:9/", PYTHONPATH=str(tmp_path))
    assert await wait(client) == 1
    output = (await read_errors(client)).decode()
    assert output == (
        "connections.client: websockets is needed: pip install websockets\n"
    )
