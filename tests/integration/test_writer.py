"""Test that workers stream into a session that browsers on two nodes show."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from django.contrib.auth.models import User

from connections.testing import LiveServer, Servers, wait_until
from connections.testing.proxy import Proxy
from sessions_history import writer
from sessions_history.models import HistoryEntry
from tests.integration.browser import PASSWORD, Person, Tab, open_browser
from tests.integration.services import PostgresProcess
from tests.integration.session_client import SESSION_CONFIG
from tests.integration.worker_answer import HALF, PARTS, WORDS
from tests.pages import PRODUCE, read_files
from tests.project import ROOT
from tests.sessions_history.appends import make_session

pytest.importorskip(
    "celery", reason="NOT RUN: no celery; requirements/tests.txt has it"
)
pytest.importorskip(
    "django_tasks_db", reason="NOT RUN: no django-tasks-db; it is in tests.txt"
)

from tests.integration import celery_app

Pair = tuple[LiveServer, LiveServer]

_WATCH = """async (session) => {
    const { SessionClient } = await import("/static/connections/client.js");
    window.watching = new SessionClient("/ws/sessions/", { session });
    window.watching.connect();
}"""
_READ_PARTS = """async () => {
    const { partsOf } = await import("/static/connections/client.js");
    const answers = window.watching.entries.filter(({ offset }) => offset === 2);
    return answers.map((entry) => [entry.state, partsOf(entry)]);
}"""


class Worker(Protocol):
    """A worker that answers in sessions, and is killed while it does."""

    def ask(self, session_id: str) -> None:
        """Enqueue a task that answers."""

    def kill(self) -> None:
        """Kill the process that answers, and let another one try the task again."""


@contextlib.contextmanager
def running(
    command: list[str], environment: dict[str, str], log: Path
) -> Iterator[None]:
    """Run a worker in a process group of its own, which is killed in the end."""
    with log.open("ab") as output:
        worker = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


def kill_writer(folder: Path) -> None:
    """Kill the process that writes the answer."""
    os.kill(int((folder / "pid").read_text()), signal.SIGKILL)


class CeleryWorker:
    """A worker of Celery, which replaces a killed child and runs its task again."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self._folder = folder
        celery_app.use_folder(folder)
        command = [
            *("-m", "celery", "-A", celery_app.__name__, "worker"),
            *("--pool", "prefork", "-c", "1", "--without-mingle", "-E"),
        ]
        own = {**environment, "BROKER_FOLDER": str(folder)}
        self.running = running(command, own, folder / "log")

    def ask(self, session_id: str) -> None:
        celery_app.answer.delay(session_id, str(self._folder))

    def kill(self) -> None:
        kill_writer(self._folder)


class DatabaseWorker:
    """Two workers of django-tasks, each for one task; a person enqueues it again."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self._folder = folder
        module = "tests.integration.tasks_settings"
        self._environment = {**environment, "DJANGO_SETTINGS_MODULE": module}
        self._run("manage.py", "migrate", "--verbosity", "0")
        worker = f"{sys.executable} manage.py db_worker --no-reload --interval 0.1"
        self.running = running(
            ["-c", f"import os; [os.system('{worker} --max-tasks 1') for _ in '12']"],
            self._environment,
            folder / "log",
        )

    def ask(self, session_id: str) -> None:
        self._session_id = session_id
        arguments = (session_id, "the answer", str(self._folder))
        code = (
            "import django; django.setup();"
            "from tests.integration.background_task import answer;"
            f"answer.enqueue(*{arguments!r})"
        )
        self._run("-c", code)

    def kill(self) -> None:
        kill_writer(self._folder)
        self.ask(self._session_id)

    def _run(self, *command: str) -> None:
        subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=self._environment, check=True
        )


@pytest.fixture
def pair(servers: Servers, migrated_postgres: PostgresProcess) -> Pair:
    """Two nodes that share PostgreSQL alone, without a responder."""
    name = f"writer_{uuid.uuid4().hex}"
    url = migrated_postgres.create_database(name, template="migrated")
    pair = servers.start_pair(
        config=SESSION_CONFIG,
        environment={
            "DATABASE_URL": url,
            "SESSIONS_RESPONDER": "",
            "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
        },
        arguments=("--no-sweeper",),
    )
    create: Any = User.objects.create_superuser
    pair[0].run(create, "alice", "alice@example.com", PASSWORD)
    return pair


@pytest.fixture(params=[CeleryWorker, DatabaseWorker])
def worker(
    request: pytest.FixtureRequest, pair: Pair, tmp_path: Path
) -> Iterator[Worker]:
    made = request.param(pair[0].environment, tmp_path)
    with made.running:
        yield made


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


class Site:
    """The address of a proxy in front of the nodes."""

    def __init__(self, proxy: Proxy) -> None:
        self.url = f"http://127.0.0.1:{proxy.port}"


@contextlib.asynccontextmanager
async def opened_browsers(
    *sites: LiveServer | Site,
) -> AsyncIterator[list[tuple[Person, Tab]]]:
    """Sign the same user in with a browser context for each site."""
    async with open_browser() as browser:
        people = [Person(site, await browser.new_context()) for site in sites]
        yield [(person, await person.sign_in("alice")) for person in people]


async def shows_half(tab: Tab) -> bool:
    return any(one.text == HALF for one in await tab.read())


async def test_a_killed_worker_goes_on_with_its_answer_in_each_browser(
    pair: Pair, worker: Worker
) -> None:
    """One node is killed, and the other browser's network is cut meanwhile."""
    async with (
        Proxy(pair[1].port) as proxy,
        opened_browsers(pair[0], Site(proxy)) as ((alone, first), (_, second)),
    ):
        await first.say("hi")
        await first.page.wait_for_url("**/?session=*")
        session_id = first.page.url.rpartition("=")[2]
        await second.page.goto(f"http://127.0.0.1:{proxy.port}/?session={session_id}")
        await second.wait_for_state("open")
        for tab in (first, second):
            await tab.page.evaluate(_WATCH, session_id)
        await asyncio.to_thread(worker.ask, session_id)
        for tab in (first, second):
            await wait_until(lambda: shows_half(tab), 60)  # noqa: B023
        await alone.context.set_offline(True)
        pair[1].kill()
        proxy.target_port = pair[0].port
        await asyncio.to_thread(worker.kill)
        await second.wait_for_answers(1)
        await alone.context.set_offline(False)
        for tab in (first, second):
            shown = await tab.wait_for_answers(1)
            assert [one.text for one in shown] == ["hi", "".join(WORDS)]
            read = await wait_until(
                lambda: read_done(tab),  # noqa: B023
                30,
            )
            assert read == PARTS
    rows = pair[0].run(list, HistoryEntry.objects.values_list("offset", "data"))
    texts = {offset: json.loads(data)["text"] for offset, data in rows}
    assert texts == {1: "hi", 2: "".join(WORDS)}


async def read_done(tab: Tab) -> Any:
    """Return the parts of the answer in a browser, or None before it is done."""
    answers = await tab.page.evaluate(_READ_PARTS)
    return next((parts for state, parts in answers if state == "done"), None)
