"""Follow the quickstart in an empty folder."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from connections.testing import wait_until
from connections.testing.waiting import scale
from tests.integration.newcomer import Newcomer
from tests.pages import QUICKSTART, SESSIONS, read_blocks, read_section

PASSWORD = "not-a-common-one"


def read_commands() -> list[str]:
    """Return the shell commands that serve the project and connect to it."""
    serve, connect = (
        read_blocks(read_section(QUICKSTART, title), "sh")[0]
        for title in ("Serve", "Connect")
    )
    return [*serve.splitlines(), *connect.splitlines()]


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    newcomer = Newcomer(tmp_path_factory.mktemp("newcomer"))
    newcomer.make_project(QUICKSTART.read_text())
    migrate, *_ = read_commands()
    assert newcomer.run(migrate).returncode == 0
    yield newcomer
    newcomer.stop()


async def test_the_quickstart_followed_to_the_letter_makes_a_chat(
    newcomer: Newcomer,
) -> None:
    _, make_user, make_token, serve, talk = read_commands()
    checked = newcomer.run("python manage.py check")
    assert "no issues (0 silenced)" in checked.stdout, checked.stderr
    made = newcomer.run(
        f"{make_user} --noinput --username ann --email ann@example.com",
        DJANGO_SUPERUSER_PASSWORD=PASSWORD,
    )
    assert made.returncode == 0, made.stderr
    token = newcomer.run(make_token).stdout.strip()
    server = newcomer.start(serve)
    await wait_until(lambda: "Serving http and ws" in newcomer.log(), 60)
    for path in ("/livez", "/readyz", "/metrics", "/static/admin/css/base.css"):
        assert newcomer.get(path) == 200, path
    assert newcomer.get("/api/tickets/") == 405
    talk = talk.replace("8000", str(newcomer.port)).replace("TOKEN", token)
    client = newcomer.start(talk)
    assert client.stdin
    client.stdin.write(f"{find_message()}\n".encode())
    client.stdin.flush()
    said = '{"type": "said", "text": "hello"}'
    await wait_until(lambda: said in newcomer.log(), 60)
    second = newcomer.run(serve)
    assert second.returncode == 1
    assert "already in use; choose another with --port (or $PORT)" in second.stderr
    _, _, last = [newcomer.start(talk) for _ in range(3)]
    await wait_until(lambda: "closed: 4005 evicted" in newcomer.log(), 60)
    assert await asyncio.to_thread(client.wait, scale(60)) == 1
    assert newcomer.get("/admin/login/") == 200
    assert last.stdin
    last.stdin.close()
    assert await asyncio.to_thread(last.wait, scale(60)) == 0
    server.terminate()
    assert await asyncio.to_thread(server.wait, scale(60)) == 0
    log = newcomer.log()
    assert re.search(
        r"INFO connections\.ends \[node \w+\]: \w+ \w+ of development ended", log
    ), log
    bad = (
        r"WARNING (?!django\.request|connections\.node\.drain)"
        r"|ERROR|Traceback|locked|UserWarning"
    )
    assert not re.search(bad, log), log


async def test_the_page_about_sessions_makes_a_project_that_answers(
    tmp_path: Path,
) -> None:
    newcomer = Newcomer(tmp_path)
    newcomer.make_project(QUICKSTART.read_text())
    newcomer.write_files(SESSIONS.read_text())
    page = read_section(SESSIONS, "Answer messages")
    migrate, make_token, serve, talk = read_blocks(page, "sh")[0].splitlines()
    said, answer = re.findall(r"(?:Type|answer is) `(.*?)`", page)
    assert newcomer.run(migrate).returncode == 0
    token = newcomer.run(make_token).stdout.strip()
    talk = talk.replace("8000", str(newcomer.port)).replace("TOKEN", token)
    try:
        newcomer.start(serve)
        await wait_until(newcomer.is_serving, 60)
        done = newcomer.run(f"echo '{said}' | {talk}")
        assert (done.returncode, done.stdout.count(answer)) == (0, 1), done.stderr
        found = re.search(r"session ([0-9a-f]{32}): new", done.stderr)
        assert found, done.stderr
        talk = talk.replace("--session new", f"--session {found[1]}")
        again = newcomer.run(f"echo more | {talk}")
        assert again.stdout.count(answer) == 1, again.stderr
    finally:
        newcomer.stop()
    assert "Traceback" not in newcomer.log()


def find_message() -> str:
    """Return the message that the quickstart says to type."""
    found = re.search(r'`(\{"type": "say".*?\})`', read_section(QUICKSTART, "Connect"))
    assert found
    return found[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("del ASGI_APPLICATION", "Cannot find ASGI_APPLICATION setting."),
        ('ASGI_APPLICATION = "away.application"', "No module named 'away'"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(
    newcomer: Newcomer, change: str, said: str
) -> None:
    settings = newcomer.folder / "mysite" / "forgotten.py"
    settings.write_text(f"from mysite.settings import *\n{change}\n")
    done = newcomer.run("python manage.py serve --settings mysite.forgotten")
    assert done.returncode == 1
    assert "nothing is served: " in done.stderr
    assert said in done.stderr
    assert 'ASGI_APPLICATION = "mysite.asgi.application"' in done.stderr
    assert "Traceback" not in done.stderr
