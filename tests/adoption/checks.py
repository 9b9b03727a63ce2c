"""Checks that hold in every served project."""

import asyncio
import contextlib
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from connections.testing import LiveServer, assert_closed, assert_open, wait_until
from connections.testing.waiting import scale
from tests.adoption.projects import PASSWORD, Project

Check = Callable[["Case"], Awaitable[None]]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    """Register a check under its name."""
    CHECKS[function.__name__] = function
    return function


@dataclass
class Case:
    """One project that is served, and those who use it."""

    project: Project
    server: LiveServer

    def url(self, path: str) -> str:
        return f"{self.server.url}{path}"

    def browser(self) -> httpx.AsyncClient:
        """Return somebody with cookies of their own."""
        return httpx.AsyncClient(timeout=scale(30))

    async def sign_in(self, browser: httpx.AsyncClient, name: str) -> None:
        """Sign in on the page of the admin, as a person does."""
        page = await browser.get(self.url("/admin/login/"))
        assert page.status_code == 200, page.status_code
        answer = await browser.post(
            self.url("/admin/login/?next=/livez"),
            data={
                "username": name,
                "password": PASSWORD,
                "csrfmiddlewaretoken": find_csrf(page.text),
            },
            headers={"Referer": self.url("/admin/login/")},
        )
        # Somebody who is not staff signs in too, and is told that this is not enough.
        assert answer.status_code in (200, 302), answer.status_code

    def connect(
        self, path: str, token: str | None = None, *, cookies: str = "", **options: Any
    ) -> Any:
        """Return connect() to a path of this project."""
        headers = {"Cookie": cookies} if cookies else {}
        return self.server.connect(
            path,
            token,
            headers=headers,
            open_timeout=scale(20),
            **options,
        )

    async def token(self, name: str) -> str:
        """Return an access token for a client of this name."""
        made = await self.manage("create_access_token", "--client", name)
        return made.strip()

    async def shell(self, source: str) -> str:
        return await asyncio.to_thread(self.project.shell, source)

    async def manage(self, *arguments: str) -> str:
        return await asyncio.to_thread(self.project.manage, *arguments)


def find_csrf(page: str) -> str:
    found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    assert found, "no CSRF token in the page"
    return found[1]


def cookies_of(browser: httpx.AsyncClient) -> str:
    return "; ".join(f"{one.name}={one.value}" for one in browser.cookies.jar)


async def say(connection: ClientConnection, text: str = "hello") -> None:
    """Say something in the chat and read it back."""
    await connection.send(json.dumps({"type": "say", "text": text}))
    await read(connection, "said")


async def read(connection: ClientConnection, kind: str) -> dict[str, Any]:
    """Return the next message of a type, others passed over."""
    async with asyncio.timeout(scale(20)):
        while True:
            message: dict[str, Any] = json.loads(await connection.recv())
            if message["type"] == kind:
                return message


# HTTP


@check
async def health_and_metrics_answer_without_a_login(case: Case) -> None:
    async with case.browser() as browser:
        for path in ("/livez", "/readyz"):
            answer = await browser.get(case.url(path))
            assert answer.status_code == 200, (path, answer.status_code)
            assert answer.json()["status"] == "ok", (path, answer.text)
        answer = await browser.get(case.url("/metrics"))
        assert answer.status_code == 200, answer.status_code
        assert "websocket_connections" in answer.text


@check
async def tickets_are_refused_in_words_without_a_credential(case: Case) -> None:
    async with case.browser() as browser:
        answer = await browser.post(case.url("/api/tickets/"))
        assert answer.status_code in (401, 403), answer.status_code


@check
async def every_admin_page_answers(case: Case) -> None:
    """Lists, searches, filters, details and the dashboard, as a superuser."""
    token = await case.token("admin-pages")
    async with case.browser() as browser, case.connect("/ws/chat/", token):
        await case.sign_in(browser, "root")
        index = await browser.get(case.url("/admin/"))
        assert index.status_code == 200, index.status_code
        found = re.findall(
            r'href="([^"]*/admin/(?:connections|sessions_history)/[^"]+)"', index.text
        )
        lists = sorted({one for one in found if "add" not in one})
        assert len(lists) >= 8, lists
        problems = []
        for path in lists:
            for query in ("", "?q=alice", "?q=1f", "?o=1"):
                answer = await browser.get(case.server.url + path + query)
                # A list without a search redirects a search to itself.
                expected = (200, 302) if query.startswith("?q") else (200,)
                if answer.status_code not in expected:
                    problems.append((path + query, answer.status_code))
                for link in set(
                    re.findall(rf'href="({re.escape(path)}[^"?]+/change/)', answer.text)
                ):
                    detail = await browser.get(case.server.url + link)
                    if detail.status_code != 200:
                        problems.append((link, detail.status_code))
        assert problems == []


@check
async def the_dashboard_shows_who_is_connected(case: Case) -> None:
    token = await case.token("seen-on-the-dashboard")
    path = "/admin/connections/livedashboard/"
    async with case.browser() as browser, case.connect("/ws/chat/", token):
        await case.sign_in(browser, "root")

        async def is_shown() -> bool:
            page = await browser.get(case.url(path))
            assert page.status_code == 200, page.status_code
            return "seen-on-the-dashboard" in page.text

        await wait_until(is_shown)
        page = (await browser.get(case.url(path))).text
        # SVG takes a point in numbers, whatever the language writes.
        assert not re.search(r'(width|height|x|y|r|d)="[^"]*\d,\d', page), "1,5 in SVG"
        details = await browser.get(
            case.url(path + "details/?client=seen-on-the-dashboard")
        )
        assert details.status_code == 200, details.status_code
        for action in ("end-all", "ban", "notice"):
            target = "client&value=seen-on-the-dashboard"
            asked = await browser.get(
                case.url(f"{path}action/{action}/?target={target}")
            )
            assert asked.status_code == 200, (action, asked.status_code)


@check
async def the_socket_of_the_dashboard_is_where_the_page_says(case: Case) -> None:
    async with case.browser() as browser:
        await case.sign_in(browser, "root")
        page = await browser.get(case.url("/admin/connections/livedashboard/"))
        found = re.search(r'data-socket="([^"]+)"', page.text)
        assert found, "no path of the socket"
        cookies = cookies_of(browser)
    async with case.server.connect(
        found[1], headers={"Cookie": cookies}, origin=case.server.url
    ) as watching:
        await watching.send('{"type":"watch","query":"","every_seconds":1}')
        async with asyncio.timeout(scale(20)):
            assert "html" in json.loads(await watching.recv())


# Credentials


@check
async def a_token_lets_in_and_a_wrong_one_does_not(case: Case) -> None:
    async with case.connect("/ws/chat/", await case.token("alice")) as alice:
        await say(alice)
    async with case.connect("/ws/chat/", "wrong") as nobody:
        await assert_closed(nobody, 4001, "unauthenticated")


@check
async def without_origin_and_credential_it_is_403(case: Case) -> None:
    for options in ({}, {"origin": "https://elsewhere.example"}):
        try:
            async with case.connect("/ws/chat/", **options):
                raise AssertionError("it was let in")
        except InvalidStatus as exc:
            assert exc.response.status_code == 403


@check
async def an_unknown_path_is_404(case: Case) -> None:
    try:
        async with case.connect("/ws/nowhere/", await case.token("alice")):
            raise AssertionError("it was let in")
    except InvalidStatus as exc:
        assert exc.response.status_code == 404


@check
async def a_login_is_a_credential_and_a_logout_ends_it(case: Case) -> None:
    async with case.browser() as browser:
        await case.sign_in(browser, "root")
        cookies = cookies_of(browser)
        async with case.connect(
            "/ws/chat/", cookies=cookies, origin=case.server.url
        ) as alice:
            await say(alice)
            page = await browser.get(case.url("/admin/"))
            out = await browser.post(
                case.url("/admin/logout/"),
                data={"csrfmiddlewaretoken": find_csrf(page.text)},
                headers={"Referer": case.url("/admin/")},
            )
            assert out.status_code in (200, 302), out.status_code
            await assert_closed(alice, 4009, "logged_out")


@check
async def a_session_that_nobody_has_is_refused(case: Case) -> None:
    name = "sid" if "sid" in case.project.variation.settings else "sessionid"
    async with case.connect(
        "/ws/chat/", cookies=f"{name}=" + "x" * 32, origin=case.server.url
    ) as nobody:
        await assert_closed(nobody, 4001, "unauthenticated")


@check
async def a_ticket_of_a_token_is_good_once(case: Case) -> None:
    token = await case.token("alice")
    async with case.browser() as browser:
        answer = await browser.post(
            case.url("/api/tickets/"), headers={"Authorization": f"Bearer {token}"}
        )
        assert answer.status_code == 201, (answer.status_code, answer.text)
        ticket = answer.json()["ticket"]
    async with case.connect(f"/ws/chat/?ticket={ticket}") as alice:
        await say(alice)
    async with case.connect(f"/ws/chat/?ticket={ticket}") as again:
        await assert_closed(again, 4001, "unauthenticated")


@check
async def a_ticket_of_a_login_is_good(case: Case) -> None:
    async with case.browser() as browser:
        await case.sign_in(browser, "root")
        page = await browser.get(case.url("/admin/"))
        answer = await browser.post(
            case.url("/api/tickets/"),
            headers={
                "X-CSRFToken": find_csrf(page.text),
                "Origin": case.server.url,
                "Referer": case.url("/admin/"),
            },
        )
        assert answer.status_code == 201, (answer.status_code, answer.text[:300])
        ticket = answer.json()["ticket"]
    async with case.connect(
        f"/ws/chat/?ticket={ticket}", origin=case.server.url
    ) as page_socket:
        await say(page_socket)


@check
async def a_permission_is_needed_and_kept_being_needed(case: Case) -> None:
    user = (
        "from django.contrib.auth import get_user_model as get\n"
        "u = get()._default_manager.get_by_natural_key('bob')\n"
    )
    token = (
        await case.manage("create_access_token", "--client", "bob", "--user", "bob")
    ).strip()
    async with case.connect("/ws/staff/", token) as refused:
        await assert_closed(refused, 4003, "forbidden")
    await case.shell(user + "u.is_superuser = True; u.save()")
    async with case.connect("/ws/staff/", token) as bob:
        await assert_open(bob)
        await case.shell(user + "u.is_superuser = False; u.save()")
        await assert_closed(bob, 4003, "forbidden")


@check
async def a_user_who_is_deactivated_is_ended(case: Case) -> None:
    token = (
        await case.manage("create_access_token", "--client", "carol", "--user", "carol")
    ).strip()
    async with case.connect("/ws/chat/", token) as carol:
        await say(carol)
        await case.shell(
            "from django.contrib.auth import get_user_model as get\n"
            "u = get()._default_manager.get_by_natural_key('carol')\n"
            "u.is_active = False; u.save()"
        )
        await assert_closed(carol, 4009, "deactivated")


@check
async def a_token_that_expires_ends_its_connection(case: Case) -> None:
    token = (
        await case.manage(
            "create_access_token", "--client", "brief", "--expires-in", "4"
        )
    ).strip()
    async with case.connect("/ws/chat/", token) as brief:
        await assert_closed(brief, 4100, "token_expired", seconds=60)


@check
async def a_token_that_never_ends_hinders_nobody(case: Case) -> None:
    """A moment at the end of time must not overflow in a loop over all."""
    made = await case.shell(
        "import datetime, secrets\n"
        "from django.conf import settings\n"
        "from connections.models import AccessToken\n"
        "from connections.models.credentials import digest_token\n"
        "zone = datetime.UTC if settings.USE_TZ else None\n"
        "end = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=zone)\n"
        "token = secrets.token_urlsafe(32)\n"
        "AccessToken.objects.create(digest=digest_token(token), hint=token[:4],"
        " client_id='for-ever', expires_at=end)\n"
        "print(token)"
    )
    async with case.connect("/ws/chat/", made) as forever:
        await say(forever)
        await assert_closed(forever, 4300, "idle", seconds=60)


# Limits


@check
async def the_sixth_evicts_the_first(case: Case) -> None:
    token = await case.token("evicted")
    opened = [await case.connect("/ws/chat/", token) for _ in range(6)]
    await assert_closed(opened[0], 4005, "evicted")
    for one in opened[1:]:
        await assert_open(one)
        await one.close()


@check
async def a_quiet_connection_is_idle(case: Case) -> None:
    async with case.connect("/ws/chat/", await case.token("quiet")) as quiet:
        await assert_closed(quiet, 4300, "idle", seconds=60)


@check
async def a_message_too_large_ends_its_sender(case: Case) -> None:
    async with case.connect("/ws/chat/", await case.token("large")) as large:
        await large.send("x" * 100_000)
        closed = await wait_closed(large)
        assert closed in (1009, 4013), closed


@check
async def too_many_messages_end_their_sender(case: Case) -> None:
    async with case.connect("/ws/quiet/", await case.token("fast")) as fast:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await fast.send('{"type":"nothing"}')
    await wait_until(lambda: is_recorded(case, "fast", "rate_limited"))


async def wait_closed(connection: ClientConnection) -> int:
    async with asyncio.timeout(scale(30)):
        await connection.wait_closed()
    assert connection.close_code is not None
    return connection.close_code


@check
async def an_error_costs_an_error(case: Case) -> None:
    token = (
        await case.manage("create_access_token", "--client", "root", "--user", "root")
    ).strip()
    async with case.connect("/ws/staff/", token) as root:
        await root.send('{"type":"fail"}')
        assert (await read(root, "error"))["code"] == "internal"
        await assert_open(root)


# Operators


@check
async def a_kick_by_command_ends_connections(case: Case) -> None:
    async with case.connect("/ws/chat/", await case.token("kicked")) as kicked:
        await say(kicked)
        await case.manage("connections", "kick", "--client", "kicked")
        await assert_closed(kicked, 4009, "kicked")


@check
async def a_kick_of_a_user_by_name_ends_connections(case: Case) -> None:
    token = (
        await case.manage("create_access_token", "--client", "dave", "--user", "dave")
    ).strip()
    async with case.connect("/ws/chat/", token) as dave:
        await say(dave)
        await case.manage("connections", "kick", "--user", "dave")
        await assert_closed(dave, 4009, "kicked")


@check
async def a_ban_ends_and_refuses_until_it_is_lifted(case: Case) -> None:
    token = await case.token("banned")
    async with case.connect("/ws/chat/", token) as banned:
        await say(banned)
        await case.manage("ban", "--client", "banned", "--for", "3600")
        await assert_closed(banned, 4003, "banned")
    async with case.connect("/ws/chat/", token) as again:
        await assert_closed(again, 4003, "banned")
    await case.manage("unban", "--client", "banned")

    async def is_let_in() -> bool:
        async with case.connect("/ws/chat/", token) as back:
            try:
                await say(back)
            except Exception:
                return False
            return True

    await wait_until(is_let_in)


@check
async def a_close_request_of_the_project_reaches_its_user(case: Case) -> None:
    async with case.connect("/ws/chat/", await case.token("asked")) as asked:
        await say(asked)
        await case.shell(
            "from connections.announcements import post_close_requests\n"
            "from connections.models import CloseRequest\n"
            "post_close_requests(CloseRequest(target='client', value='asked',"
            " reason='logged_out'))"
        )
        await assert_closed(asked, 4009, "logged_out")


@check
async def what_happened_is_recorded(case: Case) -> None:
    async with case.connect("/ws/chat/", await case.token("recorded")) as recorded:
        await say(recorded)
        await case.manage("connections", "kick", "--client", "recorded")
        await assert_closed(recorded, 4009, "kicked")

    await wait_until(lambda: is_recorded(case, "recorded", "kicked"))


async def is_recorded(case: Case, client_id: str, reason: str) -> bool:
    """Return True if the connections of a client all ended for a reason."""
    found = await case.shell(
        "from connections.models import Connection\n"
        f"rows = Connection.objects.filter(client_id={client_id!r})\n"
        "print(*rows.values_list('reason', flat=True))"
    )
    return set(found.split()) == {reason}


# Sessions


@check
async def a_session_answers_and_resumes(case: Case) -> None:
    token = await case.token("talker")
    async with case.connect(
        "/ws/sessions/new/", token, subprotocols=["orchestra.v1"]
    ) as talker:
        hello = await read(talker, "hello")
        await talker.send(
            json.dumps(
                {
                    "type": "message",
                    "id": "a-page-of-a-browser-1",
                    "data": {"text": "hi"},
                }
            )
        )
        async with asyncio.timeout(scale(20)):
            is_answered = False
            while not is_answered:
                message = json.loads(await talker.recv())
                is_answered = message.get("state") == "done" and (
                    message["type"] == "state" or message["from"] == "server"
                )
    path = f"/ws/sessions/{hello['session']}/?epoch={hello['epoch']}&offset=0"
    async with case.connect(path, token, subprotocols=["orchestra.v1"]) as back:
        assert (await read(back, "hello"))["outcome"] in ("resumed", "nothing_missed")
        assert (await read(back, "entry"))["data"] == {"text": "hi"}
        assert (await read(back, "entry"))["data"] == {"text": "you said hi"}


COMMANDS = (
    ("check",),
    ("makemigrations", "--check", "--dry-run", "connections", "sessions_history"),
    ("connections", "list"),
    ("connections", "list", "--json"),
    ("connections", "list", "--user", "root"),
    ("alerts",),
    ("alerts", "--json"),
    ("alerts", "--self-test"),
    ("ban", "--list"),
    ("ban", "--list", "--json"),
    ("close_codes",),
    ("close_codes", "--json"),
    ("prometheus_rules",),
    ("sweep_idle_connections", "--once"),
    ("sweep_idle_connections", "--once", "--json"),
    ("websocket_config",),
    ("prune_sessions", "--dry-run"),
)


@check
async def every_command_runs(case: Case) -> None:
    found = await asyncio.to_thread(case.project.run_commands, *COMMANDS)
    failed = {
        name: text[-600:]
        for name, (code, text) in found.items()
        if code or "Traceback" in text
    }
    assert failed == {}


def find_noise(log: str) -> Iterator[str]:
    """Yield the lines of a server's log that an operator would have to explain."""
    # Tracebacks of log records are indented and follow their line.
    bad = re.compile(r"^Traceback|^\S+ \S+ (ERROR|CRITICAL) |locked|RuntimeWarning")
    for line in log.splitlines():
        if bad.search(line) and "A handler failed" not in line:
            yield line
