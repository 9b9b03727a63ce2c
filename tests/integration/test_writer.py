"""Test that a worker of Celery streams into a session that two nodes show."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from connections.testing import LiveServer, Servers
from sessions_history import writer
from sessions_history.models import HistoryEntry
from tests.integration.services import PostgresProcess
from tests.integration.session_client import SESSION_CONFIG, SessionClient
from tests.pages import PRODUCE, read_files
from tests.sessions_history.appends import make_session

pytest.importorskip(
    "celery", reason="NOT RUN: no celery; requirements/tests.txt has it"
)

from tests.integration.celery_app import HALF, WORDS, answer, use_folder

Pair = tuple[LiveServer, LiveServer]


@pytest.fixture
def pair(servers: Servers, migrated_postgres: PostgresProcess) -> Pair:
    """Two nodes that share PostgreSQL alone, without a responder."""
    name = f"writer_{uuid.uuid4().hex}"
    url = migrated_postgres.create_database(name, template="migrated")
    return servers.start_pair(
        config=SESSION_CONFIG,
        environment={"DATABASE_URL": url, "SESSIONS_RESPONDER": ""},
        arguments=("--no-sweeper",),
    )


@pytest.fixture
def broker(pair: Pair, tmp_path: Path) -> Iterator[Path]:
    """The folder of a worker's broker; a killed child is replaced by the worker."""
    use_folder(tmp_path)
    app = "tests.integration.celery_app"
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(
            [
                *(sys.executable, "-m", "celery", "-A", app, "worker"),
                *("--pool", "prefork", "-c", "1", "--without-mingle", "-E"),
            ],
            env={**pair[0].environment, "BROKER_FOLDER": str(tmp_path)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        yield tmp_path
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


def shows_half(client: SessionClient) -> bool:
    return client.texts().get(2) == HALF


@pytest.mark.django_db(transaction=True)
def test_the_task_of_the_page_answers_once() -> None:
    session_id = make_session()
    (block,) = [
        text for path, text, _ in read_files(PRODUCE.read_text()) if "tasks" in path
    ]
    names: dict[str, Any] = {"__name__": "chat.tasks"}
    exec(compile(block, "chat/tasks.py", "exec"), names)
    for _ in range(2):
        names["answer"].apply((session_id, "to be"), task_id="one", throw=True)
    writer.close()
    entries = HistoryEntry.objects.filter(session=session_id)
    assert list(entries.values_list("data")) == [('{"text":"TO BE "}',)]


async def test_a_killed_worker_goes_on_with_its_answer_in_each_browser(
    pair: Pair, broker: Path
) -> None:
    """A node is killed as well; the transcript is complete, each part once."""
    token = pair[0].create_token()
    first = await SessionClient(token).connect(pair[0])
    await first.say({"text": "hi"})
    await first.wait_acked()
    second = await SessionClient(token, first.session_id).connect(pair[1])
    answer.delay(first.session_id, str(broker))
    for client in (first, second):
        await client.wait(partial(shows_half, client), 60)
    pair[1].kill()
    await second.wait_disconnected()
    os.kill(int((broker / "pid").read_text()), signal.SIGKILL)
    await second.return_to(pair[0])
    for client in (first, second):
        await client.wait(partial(client.is_done_at, 2), 60)
        assert client.texts() == {1: "hi", 2: "".join(WORDS)}
        await client.cut()
