"""Test in Chromium what the demo page shows: Markdown, notices, long transcripts."""

import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from playwright.async_api import WebSocketRoute, expect

from connections.testing import LiveServer, wait_until
from tests.integration.browser import PASSWORD, Person, Tab, open_browser
from tests.project import ProjectServers

ENVIRONMENT = {
    "SESSIONS_RESPONDER": "orchestra.responders.EchoResponder",
    "ECHO_DELAY_SECONDS": "0",
}
ENTRIES = 3000
SESSION_ID = "5" * 32

RENDER = """async (texts) => {
    const { MarkdownView } = await import("/static/orchestra/markdown.js");
    return texts.map((text) => {
        const element = document.createElement("div");
        const view = new MarkdownView(element);
        document.body.append(element);
        // As it is streamed: the view gets longer and longer texts.
        const step = Math.ceil(text.length / 40);
        for (let end = 1; end < text.length; end += step) view.show(text.slice(0, end));
        view.show(text);
        const whole = document.createElement("div");
        new MarkdownView(whole).show(text);
        const html = element.innerHTML;
        const elements = [...element.querySelectorAll("*")].map((one) => ({
            tag: one.localName,
            names: one.getAttributeNames(),
            href: one.getAttribute("href") ?? "https:",
        }));
        element.remove();
        return { html, whole: whole.innerHTML, elements };
    });
}"""

LINK = '<a href="{0}" rel="noopener noreferrer" target="_blank">{1}</a>'
MARKDOWN = {
    "one\ntwo\n\nthree": "<p>one\ntwo</p><p>three</p>",
    "# Title #\ntext": "<h3>Title</h3><p>text</p>",
    "###### Deep": "<h6>Deep</h6>",
    "**bold** and *em*, __bold__ and _em_": "<p><strong>bold</strong> and <em>em</em>,"
    " <strong>bold</strong> and <em>em</em></p>",
    "**a *b* c**": "<p><strong>a <em>b</em> c</strong></p>",
    "2 * 3 * 4, snake_case_name": "<p>2 * 3 * 4, snake_case_name</p>",
    r"\*no\* `a*b*` ``a`b``": "<p>*no* <code>a*b*</code> <code>a`b</code></p>",
    "```js\nlet a = '<b>';\n\n# no title\n```\nafter": "<pre><code>let a = '&lt;b&gt;';"
    "\n\n# no title</code></pre><p>after</p>",
    "~~~\nunfinished": "<pre><code>unfinished</code></pre>",
    "- a\n- b\n  - c\n\n- d": "<ul><li><p>a</p></li><li><p>b</p><ul><li><p>c</p></li>"
    "</ul></li><li><p>d</p></li></ul>",
    "3. a\n4. b": '<ol start="3"><li><p>a</p></li><li><p>b</p></li></ol>',
    "- a\n  ```\n  b\n  ```": "<ul><li><p>a</p><pre><code>b</code></pre></li></ul>",
    "> a\n> - b": "<blockquote><p>a</p><ul><li><p>b</p></li></ul></blockquote>",
    "a\n\n---\n\nb": "<p>a</p><hr><p>b</p>",
    "[x](https://e.test/a)": f"<p>{LINK.format('https://e.test/a', 'x')}</p>",
    "[**x**](mailto:a@e.test)": "<p>"
    + LINK.format("mailto:a@e.test", "<strong>x</strong>")
    + "</p>",
    "see https://e.test/a?b=1.": "<p>see "
    + LINK.format("https://e.test/a?b=1", "https://e.test/a?b=1")
    + ".</p>",
    "**half": "<p>**half</p>",
    "[half](https://e.te": f"<p>[half]({LINK.format('https://e.te/', 'https://e.te')}</p>",
    "": "",
}
"""Texts and what they become."""

HOSTILE = [
    "<script>window.hit = 1</script>",
    "<img src=x onerror=window.hit=1>",
    "<svg/onload=window.hit=1>",
    "<iframe srcdoc='<script>parent.hit=1</script>'></iframe>",
    "<a href='javascript:window.hit=1'>x</a>",
    "[x](javascript:window.hit=1)",
    "[x](JaVaScRiPt:window.hit=1)",
    "[x](java&#115;cript:window.hit=1)",
    "[x](java\tscript:window.hit=1)",
    "[x](\x01javascript:window.hit=1)",
    "[x](data:text/html,<script>hit=1</script>)",
    "[x](data:text/html;base64,PHNjcmlwdD5oaXQ9MTwvc2NyaXB0Pg==)",
    "[x](vbscript:hit)",
    "[x](file:///etc/passwd)",
    "[x](blob:https://e.test/1)",
    "[x](//e.test)",
    "[x](/admin/logout/)",
    '[x](https://e.test/"onmouseover="window.hit=1)',
    '![x](https://e.test/"onerror="window.hit=1)',
    "![x](x)",
    "[<img src=x onerror=window.hit=1>](https://e.test)",
    "[a [b](javascript:hit) c](https://e.test)",
    "**<b onclick=window.hit=1>**",
    "`<script>window.hit=1</script>`",
    "```\n</code></pre><script>window.hit=1</script>\n```",
    '```"><script>window.hit=1</script>\nx\n```',
    "# <style>*{display:none}</style>",
    "- <form action=https://e.test><input name=a>",
    "> <base href=https://e.test>",
    "<!-- --!><script>window.hit=1</script>",
    "</p></div><script>window.hit=1</script>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=hit=1>",
    "&lt;script&gt;window.hit=1&lt;/script&gt;",
    "{{constructor.constructor('window.hit=1')()}}",
    "https://e.test/<script>window.hit=1</script>",
    "https://user:pass@e.test/\u202ejavascript:hit",
    "> " * 3000 + "x",
    "- " * 3000 + "x",
    "*a " * 3000,
    "`a" * 3000,
    "[a](" * 3000,
    "**a_" * 3000,
    "\x00\x1b[31m\ud800",
]
TAGS = {"h3", "h4", "h5", "h6", "p", "ul", "ol", "li", "pre", "code", "strong", "em"}
TAGS |= {"hr", "blockquote", "a"}
ATTRIBUTES = {"ol": {"start"}, "a": {"href", "rel", "target"}}


@pytest.fixture(scope="module")
def server(shared_servers: ProjectServers) -> LiveServer:
    """A server with a user and a session of thousands of entries."""
    config = {"max_session_history": 5000}
    server = shared_servers.share(config=config, environment=ENVIRONMENT)
    create: Any = User.objects.create_superuser
    user = server.run(create, "alice", "alice@example.com", PASSWORD)
    rows = [
        (
            SESSION_ID,
            n,
            "client" if n % 2 else "server",
            f'{{"text":"entry {n}"}}',
        )
        for n in range(1, ENTRIES + 1)
    ]
    with contextlib.closing(sqlite3.connect(server.folder / "db.sqlite3")) as database:
        database.execute(
            "insert into sessions_history_session (session_id, client_id, epoch,"
            " last_offset) values (?, ?, 'e', ?)",
            (SESSION_ID, f"user:{user.pk}", ENTRIES),
        )
        database.executemany(
            'insert into sessions_history_historyentry (session_id, "offset", kind,'
            " sender, data, state) values (?, ?, 'message', ?, ?, 'done')",
            rows,
        )
        database.commit()
    return server


@pytest.fixture
async def person(server: LiveServer) -> AsyncIterator[Person]:
    """A user at a narrow screen, whose pages report no error."""
    async with open_browser() as browser:
        context = await browser.new_context(viewport={"width": 390, "height": 780})
        person = Person(server, context)
        yield person
        assert person.complaints == []


async def test_markdown_is_rendered(person: Person) -> None:
    """In pieces as at once."""
    page = (await person.sign_in("alice")).page
    found = await page.evaluate(RENDER, list(MARKDOWN))
    assert [one["html"] for one in found] == list(MARKDOWN.values())
    assert [one["whole"] for one in found] == list(MARKDOWN.values())


async def test_hostile_text_stays_text(person: Person) -> None:
    """No other element, attribute or address, and none that takes long."""
    page = (await person.sign_in("alice")).page
    for text, found in zip(HOSTILE, await page.evaluate(RENDER, HOSTILE), strict=True):
        for element in found["elements"]:
            assert element["tag"] in TAGS, text
            allowed = ATTRIBUTES.get(element["tag"], set())
            assert set(element["names"]) <= allowed, text
            assert element["href"].startswith(("http:", "https:", "mailto:")), text
    assert await page.evaluate("window.hit") is None


async def test_thousands_of_entries_keep_the_page_small(person: Person) -> None:
    """Earlier ones come back by scrolling and by a button, and newer ones too."""
    await person.sign_in("alice")
    tab = await person.open_tab(f"/?session={SESSION_ID}")
    page = tab.page

    async def read_offsets() -> list[int]:
        return [one.offset for one in await tab.read()]

    async def wait_for(first: int, last: int) -> None:
        async def is_shown() -> bool:
            shown = await read_offsets()
            return shown == list(range(first, last + 1))

        await wait_until(is_shown, 60)

    await wait_for(ENTRIES - 199, ENTRIES)
    assert await tab.read_fact("entries") == "1000"
    for is_by_button in (True, False, False):
        first = (await read_offsets())[0]
        if is_by_button:
            await page.click("#earlier")
        else:
            await page.evaluate("document.getElementById('scroller').scrollTop = 0")
        await wait_until(lambda first=first: _is_before(tab, first), 30)
        shown = await read_offsets()
        assert shown == list(range(shown[0], shown[0] + 200))
    await tab.say("newest")
    await wait_for(ENTRIES - 197, ENTRIES + 2)


async def _is_before(tab: Tab, first: int) -> bool:
    return (await tab.read())[0].offset < first


async def test_notices_and_errors_are_shown(person: Person) -> None:
    routes: list[WebSocketRoute] = []

    def pass_on(route: WebSocketRoute) -> None:
        route.connect_to_server()
        routes.append(route)

    await person.context.route_web_socket("**/ws/sessions/**", pass_on)
    page = (await person.sign_in("alice")).page
    for message in (
        {"type": "notice", "text": "Back in <b>five</b>", "at": "2026-01-01T00:00:00Z"},
        {"type": "error", "code": "internal", "message": "It failed", "ref": "ab12"},
    ):
        routes[-1].send(json.dumps(message))
    notice, error = page.locator(".mark.is-notice"), page.locator(".mark.is-error")
    await expect(notice).to_have_text("From staff: Back in <b>five</b>")
    await expect(error).to_have_text("Error: It failed (reference ab12)")
    await expect(page.locator("#announcement")).to_have_text(
        "Error: It failed (reference ab12)"
    )


async def test_a_reload_before_the_first_message_keeps_the_session(
    person: Person,
) -> None:
    """Nothing is stored of it, and no list shows it."""
    tab = await person.sign_in("alice")
    session_id = await tab.read_fact("session")
    await tab.page.reload()
    await tab.wait_for_state("open")
    assert await tab.read_fact("session") == session_id
    assert await tab.page.locator(f'a[href*="{session_id}"]').count() == 0
    await tab.say("first")
    await tab.wait_for_answers(1)
    assert await tab.page.locator(f'a[href*="{session_id}"]').count() == 1


async def test_no_page_has_an_error_in_its_console(person: Person) -> None:
    """Not even for an icon, which a headless browser does not ask for."""
    page = (await person.sign_in("alice")).page
    for path in ("/admin/", "/favicon.ico"):
        answer = await page.goto(page.url.split("/?")[0].rstrip("/") + path)
        assert answer is not None
        assert answer.status == 200
        await page.go_back()
