"""Test that a process which is no node waits for a person, and is killed meanwhile."""

import contextlib
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest

from connections.client import SessionClient
from connections.testing import LiveServer, Servers, wait_until
from connections.testing.waiting import scale
from tests.integration.approving import (
    find,
    find_call,
    make_client,
    wait_for_end,
    wait_for_question,
)
from tests.integration.services import PostgresProcess
from tests.integration.session_client import SESSION_CONFIG
from tests.project import ROOT

TASK = """
import django; django.setup()
from sessions_history.parts import Part
from sessions_history.writer import open_stream

with open_stream({session_id!r}, key="task") as stream:
    if not stream.parts:
        stream.write(Part("tool_call", id="c1", name="refund", arguments="7"))
    decision = stream.approval("c1")
    print(decision.state, decision.note)
    if decision.is_approved:
        stream.write(Part("tool_call", id="c1", state="done", result=7))
"""


@contextlib.contextmanager
def running(server: LiveServer, session_id: str) -> Iterator["subprocess.Popen[str]"]:
    """Run the task in a process of its own, which is killed in the end."""
    with subprocess.Popen(
        [sys.executable, "-c", TASK.format(session_id=session_id)],
        cwd=ROOT,
        env=server.environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as worker:
        try:
            yield worker
        finally:
            worker.kill()


@pytest.fixture
def pair(
    servers: Servers, migrated_postgres: PostgresProcess
) -> tuple[LiveServer, LiveServer]:
    """Two nodes that share PostgreSQL alone, without a responder."""
    name = f"writer_{uuid.uuid4().hex}"
    url = migrated_postgres.create_database(name, template="migrated")
    environment = {"DATABASE_URL": url, "SESSIONS_RESPONDER": ""}
    return servers.start_pair(config=SESSION_CONFIG, environment=environment)


def is_streaming(client: SessionClient) -> bool:
    entry = find(client, 2)
    return entry is not None and entry.is_streaming


async def test_a_killed_task_goes_on_with_the_question(
    pair: tuple[LiveServer, LiveServer],
) -> None:
    first, second = pair
    token = first.create_token()
    async with make_client(first, token) as asker:
        await asker.request({"text": "my money!"})
        session_id = asker.session
        async with make_client(second, token, session_id) as decider:
            with running(first, session_id):
                await wait_for_question(decider)
            # Its lease has to end before anybody learns that it is gone.
            await wait_until(lambda: not is_streaming(decider), 30)
            with running(first, session_id) as again:
                await wait_until(lambda: is_streaming(decider), 30)
                await decider.approve(2, "c1", note="a regular")
                entry = await wait_for_end(asker, 2)
                printed, _ = again.communicate(timeout=scale(30))
        assert printed == "approved a regular\n"
        assert entry.state == "done"
        call = find_call(asker)
        assert (call["state"], call["result"], call["arguments"]) == ("done", 7, "7")
