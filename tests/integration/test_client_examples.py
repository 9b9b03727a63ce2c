"""Run the examples of both clients against a live server."""

import ast
import asyncio
import inspect
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User

from connections.client import HttpSessions, SessionClient
from connections.testing import LiveServer, Servers, wait_until
from tests.integration.browser import PASSWORD, Person, open_browser
from tests.pages import DOCS, read_blocks
from tests.project import ROOT

PYTHON = (DOCS / "howto" / "python_client.md", ROOT / "clients/python/README.md")
BROWSER = DOCS / "howto" / "browser_client.md"
JAVASCRIPT = ROOT / "clients" / "javascript" / "README.md"
ENVIRONMENT = {
    "SESSIONS_RESPONDER": "orchestra.responders.EchoResponder",
    "ECHO_DELAY_SECONDS": "0",
}
RUN = """async (source) => {
    const [shown, states, printed] = [[], [], []];
    const print = (...words) => printed.push(words.join(" "));
    const names = {
        show: (entry) => shown.push(entry),
        showState: (state) => states.push(state),
        showNotice() {},
        ids: window.ids ?? [],
        console: { ...console, log: print },
    };
    const make = Object.getPrototypeOf(async () => {}).constructor;
    window.example = { shown, states, printed };
    const result = await make(...Object.keys(names), source)(...Object.values(names));
    window.example.result = result;
}"""


@pytest.fixture
def server(servers: Servers) -> LiveServer:
    server = servers.start(environment=ENVIRONMENT)
    create: Any = User.objects.create_user
    server.run(create, "alice", "alice@example.com", PASSWORD)
    return server


def run_python(source: str, server: LiveServer, **names: Any) -> dict[str, Any]:
    """Run a block with the addresses of a server; `done` is what it awaits."""
    for scheme, url in (("wss", server.ws_url), ("https", server.url)):
        source = re.sub(rf"{scheme}://(?:host|example\.com)(?=/)", url, source)
    code = compile(source, "page", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names["done"] = eval(code, names)
    return names


def read_examples(page: Path, language: str) -> list[str]:
    return read_blocks(page.read_text(), language)


def read_printed(page: Path) -> list[str]:
    """Return what a page says that its first example prints."""
    (said,) = re.findall(r"In a new session it prints (.*?),", page.read_text())
    return re.findall(r"`(.*?)`", said)


def convert(source: str, server: LiveServer) -> str:
    """Return a JavaScript block as the body of a function on a page of a server."""
    imports = r'import (\{.*?\}) from (".*?");'
    source = re.sub(imports, r"const \1 = await import(\2);", source)
    package = '"orchestra-websocket-client'
    for name in ("http", "shared"):
        source = source.replace(
            f'{package}/{name}"', f'"/static/connections/{name}.js"'
        )
    source = source.replace(f'{package}"', '"/static/connections/client.js"')
    source = source.replace("wss://host", server.ws_url)
    return source.replace("https://host", server.url)


@pytest.mark.parametrize("page", PYTHON, ids=["page", "readme"])
async def test_the_first_python_example_prints_what_its_page_says(
    server: LiveServer, page: Path
) -> None:
    printed: list[str] = []

    def record(*words: object) -> None:
        printed.append(" ".join(map(str, words)))

    expected = read_printed(page)
    assert len(expected) == 2
    token = server.create_token()
    source = read_examples(page, "python")[0]
    names = run_python(source, server, print=record, TOKEN=token)
    done = names["done"] if inspect.isawaitable(names["done"]) else None
    following = asyncio.ensure_future(done or names["follow"](token))
    await wait_until(lambda: following.done() or len(printed) >= len(expected), 30)
    following.cancel()
    await asyncio.wait([following])
    assert following.cancelled(), following.exception()
    assert printed[: len(expected)] == expected


async def test_the_other_python_examples_do_what_they_say(server: LiveServer) -> None:
    """Two sessions on one connection, and titles for those without one."""
    token = server.create_token()
    names: dict[str, Any] = {}
    for block in read_examples(PYTHON[0], "python"):
        names |= run_python(block, server)
    ids: list[str] = []
    for _ in range(2):
        url = f"{server.ws_url}/ws/sessions/"
        async with SessionClient(url, token=token) as client:
            await client.request({"text": "first"}, answer=False)
            ids.append(client.session)
    await names["follow_two"](token, *ids)
    sessions = HttpSessions(f"{server.url}/api/sessions/", token=token)
    texts = [
        {entry.data["text"] for entry in (await sessions.entries(one)).items}
        for one in ids
    ]
    assert "Hello" in texts[0] and "Hello to you" in texts[1]
    await names["tidy"](token)
    assert all([(await sessions.get(one)).title for one in ids])


@pytest.fixture
async def person(server: LiveServer) -> AsyncIterator[Person]:
    """A user whose pages report no error."""
    async with open_browser() as browser:
        person = Person(server, await browser.new_context())
        yield person
        assert person.complaints == []


async def test_the_javascript_examples_do_what_their_pages_say(
    server: LiveServer, person: Person
) -> None:
    page = (await person.sign_in("alice")).page

    async def run(source: str, is_done: Callable[[dict[str, Any]], bool]) -> Any:
        await page.evaluate(RUN, convert(source, server))
        found: dict[str, Any] = {}

        async def check() -> bool:
            found.update(await page.evaluate("window.example"))
            return is_done(found)

        await wait_until(check, 30)
        return found

    guide = read_examples(BROWSER, "js")[0] + "return offset;"
    found = await run(guide, lambda one: len(one["shown"]) >= 3)
    assert found["result"] == 1
    assert found["states"][:2] == ["connecting", "open"]
    assert found["shown"][0]["data"] == {"text": "Hello"}
    first, lists, shared = read_examples(JAVASCRIPT, "js")[:3]
    expected = sorted(read_printed(JAVASCRIPT))
    found = await run(first, lambda one: len(one["printed"]) >= len(expected))
    assert sorted(found["printed"][: len(expected)]) == expected
    ids = (await run(f"{lists} return items.map(({{ id }}) => id);", bool))["result"]
    assert len(ids) == 2
    await page.evaluate("(ids) => void (window.ids = ids)", ids)
    opened = f"""{shared}
    await new Promise((resolve) => {{
      const check = () => clients.every((one) => one.entries.length >= 2) && resolve();
      for (const one of clients) one.addEventListener("entry", check);
    }});
    return clients.map((client) => client.session);"""
    assert (await run(opened, bool))["result"] == ids
