"""Checks of WebSockets: credentials, limits, operators and sessions."""

import asyncio
import contextlib
import json
import re
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from connections.testing import assert_open, wait_until
from connections.testing.waiting import scale
from tests.adoption.case import Case, chat, check, find_csrf, read
from tests.adoption.projects import CommandFailed

# Credentials


@check
async def a_token_lets_in_and_a_wrong_one_does_not(case: Case) -> None:
    async with case.connect("/ws/chat/", await case.token("alice")) as alice:
        await chat(alice)
    async with case.connect("/ws/chat/", "wrong") as nobody:
        await case.assert_closed(nobody, 4001, "unauthenticated")


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
async def listed_apps_and_extensions_connect_with_a_cookie(case: Case) -> None:
    cookies = case.staff.cookies
    for origin in ("capacitor://localhost", "moz-extension://4e1a9c52"):
        async with case.connect("/ws/chat/", cookies=cookies, origin=origin) as app:
            await chat(app)
    for origin in ("tauri://localhost", "file://", "null"):
        with pytest.raises(InvalidStatus, match="403"):
            await case.connect("/ws/chat/", cookies=cookies, origin=origin)


@check
async def a_login_is_a_credential_and_a_logout_ends_it(case: Case) -> None:
    async with case.browser() as browser:
        await browser.sign_in()
        async with case.connect(
            "/ws/chat/", cookies=browser.cookies, origin=case.origin
        ) as alice:
            await chat(alice)
            page = await browser.get(case.admin())
            out = await browser.post(
                case.admin("logout/"),
                page.text,
                csrfmiddlewaretoken=find_csrf(page.text),
            )
            assert out.status_code in (200, 302), out.status_code
            await case.assert_closed(alice, 4009, "logged_out")


@check
async def a_session_that_nobody_has_is_refused(case: Case) -> None:
    name = case.project.variation.session_cookie
    async with case.connect(
        "/ws/chat/", cookies=f"{name}=" + "x" * 32, origin=case.origin
    ) as nobody:
        await case.assert_closed(nobody, 4001, "unauthenticated")


@check
async def a_ticket_of_a_token_is_good_once(case: Case) -> None:
    token = await case.token("alice")
    async with case.browser() as browser:
        answer = await browser.send(
            case.path("/api/tickets/"), Authorization=f"Bearer {token}"
        )
        assert answer.status_code == 201, (answer.status_code, answer.text)
        ticket = answer.json()["ticket"]
    async with case.connect(f"/ws/chat/?ticket={ticket}") as alice:
        await chat(alice)
    async with case.connect(f"/ws/chat/?ticket={ticket}") as again:
        await case.assert_closed(again, 4001, "unauthenticated")


@check
async def a_ticket_of_a_login_is_good(case: Case) -> None:
    async with case.browser() as browser:
        await browser.sign_in()
        page = await browser.get(case.admin())
        answer = await browser.post(case.path("/api/tickets/"), page.text)
        assert answer.status_code == 201, (answer.status_code, answer.text[:300])
        ticket = answer.json()["ticket"]
    async with case.connect(
        f"/ws/chat/?ticket={ticket}", origin=case.origin
    ) as page_socket:
        await chat(page_socket)


@check
async def a_permission_is_needed_and_kept_being_needed(case: Case) -> None:
    user = (
        "from django.contrib.auth import get_user_model as get\n"
        "u = get()._default_manager.get_by_natural_key('bob')\n"
    )
    token = await case.token("bob", "--user", "bob")
    async with case.connect("/ws/staff/", token) as refused:
        await case.assert_closed(refused, 4003, "forbidden")
    await case.shell(user + "u.is_superuser = True; u.save()")
    async with case.connect("/ws/staff/", token) as bob:
        await assert_open(bob)
        await case.shell(user + "u.is_superuser = False; u.save()")
        await case.assert_closed(bob, 4003, "forbidden")


@check
async def a_user_who_is_deactivated_is_ended(case: Case) -> None:
    token = await case.token("carol", "--user", "carol")
    async with case.connect("/ws/chat/", token) as carol:
        await chat(carol)
        await case.shell(
            "from django.contrib.auth import get_user_model as get\n"
            "u = get()._default_manager.get_by_natural_key('carol')\n"
            "u.is_active = False; u.save()"
        )
        await case.assert_closed(carol, 4009, "deactivated")


@check
async def a_token_that_expires_ends_its_connection(case: Case) -> None:
    token = await case.token("brief", "--expires-in", f"{scale(4):.0f}")
    async with case.connect("/ws/chat/", token) as brief:
        await case.assert_closed(brief, 4100, "token_expired", seconds=60)


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
        await chat(forever)
        await assert_ended(case, forever, "idle", 4300, "idle", client="for-ever")


# Limits


@check
async def the_sixth_evicts_the_first(case: Case) -> None:
    token = await case.token("evicted")
    opened = [await case.connect("/ws/chat/", token) for _ in range(6)]
    await assert_ended(case, opened[0], "clients", 4005, "evicted", client="evicted")
    await asyncio.gather(*map(assert_open, opened[1:]))
    await asyncio.gather(*(one.close() for one in opened[1:]))


@check
async def a_quiet_connection_is_idle(case: Case) -> None:
    async with case.connect("/ws/chat/", await case.token("quiet")) as quiet:
        await assert_ended(case, quiet, "idle", 4300, "idle", client="quiet")


async def assert_ended(
    case: Case,
    connection: ClientConnection,
    limit: str,
    code: int,
    reason: str,
    *,
    client: str,
) -> None:
    """Assert that a limit ends a connection, or only says so where it is observed."""
    if limit not in case.project.variation.observed:
        await case.assert_closed(connection, code, reason, seconds=60)
        return
    line = re.compile(rf"{limit} would have ended connection \w+ of {client}\b")
    await wait_until(lambda: line.search(case.server.log()) is not None, 60)
    await assert_open(connection)


@check
async def a_message_too_large_ends_its_sender(case: Case) -> None:
    async with case.connect("/ws/chat/", await case.token("large")) as large:
        await large.send("x" * 100_000)
        closed = await wait_closed(large)
        assert closed in (1009, 4013), closed


@check
async def too_many_messages_end_their_sender(case: Case) -> None:
    variation = case.project.variation
    reason = "rate_limited"
    if variation.command == "uvicorn" and variation.is_unix:
        # The buffers of the socket are small, and it reads none of the errors.
        reason = "slow_consumer"
    async with case.connect("/ws/quiet/", await case.token("fast")) as fast:
        # daphne parses what it can read before it hands over the next message, so that
        # as many as possible would keep the consumer below its rate.
        pause_seconds = 0.002 if variation.command == "daphne" else 0
        flood = asyncio.create_task(send_forever(fast, pause_seconds))
        await wait_until(lambda: is_recorded(case, "fast", reason), 60)
        flood.cancel()
        # uvicorn keeps the socket of a client that reads nothing.
        fast.transport.abort()
        await asyncio.gather(flood, return_exceptions=True)


async def send_forever(connection: ClientConnection, pause_seconds: float) -> None:
    """Send messages and read none, until the connection is closed."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await connection.send('{"type":"nothing"}')
            await asyncio.sleep(pause_seconds)  # Let the other checks run.


async def wait_closed(connection: ClientConnection) -> int:
    async with asyncio.timeout(scale(30)):
        await connection.wait_closed()
    assert connection.close_code is not None
    return connection.close_code


@check
async def an_error_costs_an_error(case: Case) -> None:
    token = await case.token("root", "--user", "root")
    async with case.connect("/ws/staff/", token) as root:
        await root.send('{"type":"fail"}')
        assert (await read(root, "error"))["code"] == "internal"
        await assert_open(root)


# Operators


@check
async def a_kick_by_command_ends_connections(case: Case) -> None:
    async with case.connect("/ws/chat/", await case.token("kicked")) as kicked:
        await chat(kicked)
        await kick(case, "--client", "kicked")
        await case.assert_closed(kicked, 4009, "kicked")


async def kick(case: Case, *target: str) -> None:
    """Kick a connection, which may be too new to be recorded."""
    try:
        await case.manage("connections", "kick", *target)
    except CommandFailed as exc:
        # The nodes are asked all the same.
        if "the nodes were asked all the same" not in str(exc):
            raise


@check
async def a_users_connections_are_listed_and_shown_as_json(case: Case) -> None:
    # Other checks run beside this one, and one of them kicks dave.
    token = await case.token("listed", "--user", "erin")
    async with case.connect("/ws/chat/", token) as listed:
        await chat(listed)

        async def find() -> list[Any]:
            text = await case.manage(
                "connections", "list", "--client", "listed", "--json"
            )
            found: list[Any] = json.loads(text)
            return found

        (found,) = await wait_until(find)
        shown = json.loads(
            await case.manage("connections", "show", found["id"], "--json")
        )
        assert shown["user"] == found["user"] is not None


@check
async def a_kick_of_a_user_by_name_ends_connections(case: Case) -> None:
    token = await case.token("dave", "--user", "dave")
    async with case.connect("/ws/chat/", token) as dave:
        await chat(dave)
        await kick(case, "--user", "dave")
        await case.assert_closed(dave, 4009, "kicked")


@check
async def a_ban_ends_and_refuses_until_it_is_lifted(case: Case) -> None:
    token = await case.token("banned")
    async with case.connect("/ws/chat/", token) as banned:
        await chat(banned)
        await case.manage("ban", "--client", "banned", "--for", "3600")
        await case.assert_closed(banned, 4003, "banned")
    async with case.connect("/ws/chat/", token) as again:
        await case.assert_closed(again, 4003, "banned")
    await case.manage("unban", "--client", "banned")

    async def is_let_in() -> bool:
        async with case.connect("/ws/chat/", token) as back:
            try:
                await chat(back)
            except Exception:
                return False
            return True

    await wait_until(is_let_in)


@check
async def a_close_request_of_the_project_reaches_its_user(case: Case) -> None:
    async with case.connect("/ws/chat/", await case.token("asked")) as asked:
        await chat(asked)
        await case.shell(
            "from connections.announcements import post_close_requests\n"
            "from connections.models import CloseRequest\n"
            "post_close_requests(CloseRequest(target='client', value='asked',"
            " reason='logged_out'))"
        )
        await case.assert_closed(asked, 4009, "logged_out")


@check
async def what_happened_is_recorded(case: Case) -> None:
    async with case.connect("/ws/chat/", await case.token("recorded")) as recorded:
        await chat(recorded)
        await kick(case, "--client", "recorded")
        await case.assert_closed(recorded, 4009, "kicked")

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
