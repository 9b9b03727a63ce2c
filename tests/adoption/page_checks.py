"""Checks of pages: health, tickets, the admin and its dashboard."""

import asyncio
import json
import re
from collections.abc import Iterator

from django.apps import apps
from django.contrib import admin
from django.db.models import Model

from connections.actions.registry import ACTIONS
from connections.testing import assert_open, wait_until
from connections.testing.waiting import scale
from tests.adoption.case import Case, add_check, chat, check, find_csrf, read

DASHBOARD = "connections/livedashboard/"


@check
async def health_answers_without_a_login(case: Case) -> None:
    async with case.browser() as browser:
        for path in ("/livez", "/readyz"):
            answer = await browser.get(case.path(path))
            assert answer.status_code == 200, (path, answer.status_code)
            assert answer.json()["status"] == "ok", (path, answer.text)


@check
async def metrics_answer_without_a_login(case: Case) -> None:
    async with case.browser() as browser:
        answer = await browser.get(case.path("/metrics"))
        # Only an address that may read them gets them, and a proxy passes on clients.
        expected = 403 if case.project.variation.headers else 200
        assert answer.status_code == expected, answer.status_code
        assert expected != 200 or "websocket_connections" in answer.text


@check
async def a_ticket_needs_a_credential(case: Case) -> None:
    async with case.browser() as browser:
        answer = await browser.send(case.path("/api/tickets/"))
        assert answer.status_code in (401, 403), answer.status_code
        page = await browser.get(case.path("/api/tickets/"))
        assert page.status_code == 405, page.status_code


@check
async def the_operators_api_needs_a_token_alone(case: Case) -> None:
    scope = ("--scope", "api:read")
    token = await case.manage(
        "create_access_token", "--client", "script", "--user", "root", *scope
    )
    async with case.browser() as browser:
        for name in ("connections", "clients", "nodes", "tokens", "sessions", "usage"):
            path = case.path(f"/api/v1/{name}")
            refused = await browser.get(path)
            assert refused.status_code == 401, (path, refused.status_code)
            assert refused.json()["error"]["code"] == "unauthenticated"
            headers = {"Authorization": f"Bearer {token}"}
            answer = await browser.get(path, headers=headers)
            assert answer.status_code == 200, (path, answer.text)
            assert "items" in answer.json()
        document = await browser.get(case.path("/api/v1/openapi.json"))
        assert document.json()["servers"] == [{"url": case.path("/api/v1")}]


@check
async def the_clients_script_is_served(case: Case) -> None:
    page = await case.staff.get(case.admin(DASHBOARD))
    (script,) = re.findall(r'src="([^"]+connections/live[^"/]*\.js)"', page.text)
    if script.startswith("http"):  # From another server.
        return
    answer = await case.staff.get(script)
    assert answer.status_code == 200, (script, answer.status_code)


@check
async def the_index_links_to_every_list(case: Case) -> None:
    index = await case.staff.get(case.admin())
    assert index.status_code == 200, index.status_code
    for model in find_models():
        assert f'href="{find_list(case, model)}"' in index.text, model


def find_models() -> Iterator[type[Model]]:
    """Yield the models of these apps that the admin shows."""
    for name in ("connections", "sessions_history"):
        for model in apps.get_app_config(name).get_models():
            if admin.site.is_registered(model):
                yield model


def find_list(case: Case, model: type[Model]) -> str:
    return case.admin(f"{model._meta.app_label}/{model._meta.model_name}/")


async def expect(case: Case, path: str, *statuses: int) -> str:
    """Get a page as staff, and expect one of the statuses."""
    answer = await case.staff.get(path)
    assert answer.status_code in statuses, (path, answer.status_code)
    return answer.text


async def list_rows(case: Case, model: type[Model]) -> None:
    await expect(case, find_list(case, model), 200)


async def sort_rows(case: Case, model: type[Model]) -> None:
    for order in ("1", "-2.1"):
        await expect(case, f"{find_list(case, model)}?o={order}", 200)


async def search_rows(case: Case, model: type[Model]) -> None:
    for term in ("alice", "1f", "a%20b", "%22%00"):
        # A list without a search redirects a search to itself.
        await expect(case, f"{find_list(case, model)}?q={term}", 200, 302)


async def filter_rows(case: Case, model: type[Model]) -> None:
    path = find_list(case, model)
    page = await expect(case, path, 200)
    for query in sorted(set(re.findall(r'href="(\?[^"]+)"', page)))[:20]:
        await expect(case, path + query.replace("&amp;", "&"), 200)


async def show_rows(case: Case, model: type[Model]) -> None:
    path = find_list(case, model)
    # The list of connections shows the open ones first.
    query = "?state=all" if model._meta.model_name == "connection" else ""
    page = await expect(case, path + query, 200)
    links = find_links(path, page)
    assert links or model._meta.model_name in ("livedashboard", "alert"), path
    for link in sorted(links)[:5]:
        await expect(case, link, 200)
        await expect(case, link.replace("/change/", "/history/"), 200)


def find_links(path: str, page: str) -> set[str]:
    """Return the paths of the rows that a list shows."""
    return set(re.findall(rf'href="({re.escape(path)}[^"?]+/change/)', page))


async def open_add_form(case: Case, model: type[Model]) -> None:
    path = find_list(case, model)
    if f'href="{path}add/' in await expect(case, path, 200):
        await expect(case, f"{path}add/", 200)


for _model in find_models():
    for _function in (
        list_rows,
        sort_rows,
        search_rows,
        filter_rows,
        show_rows,
        open_add_form,
    ):
        add_check(f"{_function.__name__}_{_model.__name__}", _function, _model)


@check
async def staff_create_and_revoke_a_token(case: Case) -> None:
    path = case.admin("connections/accesstoken/")
    page = await case.staff.get(f"{path}add/")
    made = await case.staff.post(
        f"{path}add/",
        page.text,
        csrfmiddlewaretoken=find_csrf(page.text),
        client_id="of-the-admin",
        scopes="/ws/chat/",
    )
    assert made.status_code == 200, made.status_code
    found = re.search(r">\s*([\w-]{43})\s*<", made.text)
    assert found, "no token in the page"
    async with case.connect("/ws/staff/", found[1]) as elsewhere:
        await case.assert_closed(elsewhere, 4003, "forbidden")
    async with case.connect("/ws/chat/", found[1]) as client:
        await chat(client)
        listed = await case.staff.get(f"{path}?q=of-the-admin")
        (link,) = find_links(path, listed.text)
        form = await case.staff.get(link)
        revoked = await case.staff.post(
            link.replace("/change/", "/revoke/"),
            form.text,
            csrfmiddlewaretoken=find_csrf(form.text),
        )
        assert revoked.status_code == 302, revoked.status_code
        await case.assert_closed(client, 4009, "revoked")


@check
async def staff_ban_and_unban_in_the_admin(case: Case) -> None:
    token = await case.token("banned-by-staff")
    path = case.admin("connections/ban/")
    async with case.connect("/ws/chat/", token) as client:
        await chat(client)
        form = await case.staff.get(f"{path}add/")
        made = await case.staff.post(
            f"{path}add/",
            form.text,
            csrfmiddlewaretoken=find_csrf(form.text),
            target="client",
            value="banned-by-staff",
            reason="a test",
            until_0="",
            until_1="",
        )
        assert made.status_code == 302, made.text
        await case.assert_closed(client, 4003, "banned")
    listed = await case.staff.get(f"{path}?q=banned-by-staff")
    (link,) = find_links(path, listed.text)
    link = link.replace("/change/", "/delete/")
    form = await case.staff.get(link)
    gone = await case.staff.post(
        link, form.text, csrfmiddlewaretoken=find_csrf(form.text), post="yes"
    )
    assert gone.status_code == 302, gone.status_code


@check
async def staff_delete_a_user_with_tokens(case: Case) -> None:
    made = await case.shell(
        "from django.contrib.auth import get_user_model as get\n"
        "users = get()\n"
        "user = users(**{users.USERNAME_FIELD: 'leaver'}); user.save()\n"
        "print(user.pk)"
    )
    token = await case.token("leaver", "--user", "leaver")
    async with case.connect("/ws/chat/", token) as leaver:
        await chat(leaver)
        await case.shell(
            "from django.contrib.auth import get_user_model as get\n"
            f"get()._default_manager.get(pk={made!r}).delete()"
        )
        await case.assert_closed(leaver, 4009)
    async with case.connect("/ws/chat/", token) as again:
        await case.assert_closed(again, 4001, "unauthenticated")


# The dashboard


async def find_shown(case: Case, client_id: str) -> str:
    """Return the page of the dashboard that shows a client."""

    async def is_shown() -> bool:
        return client_id in await expect(case, case.admin(DASHBOARD), 200)

    await wait_until(is_shown)
    return await expect(case, case.admin(DASHBOARD), 200)


@check
async def the_dashboard_shows_who_is_connected(case: Case) -> None:
    token = await case.token("seen-on-the-dashboard")
    async with case.connect("/ws/chat/", token):
        page = await find_shown(case, "seen-on-the-dashboard")
        # SVG takes a point in numbers, whatever the language writes.
        assert not re.search(r'(width|height|x|y|r|d)="[^"]*\d,\d', page), "1,5 in SVG"
        details = case.admin(f"{DASHBOARD}details/?client=seen-on-the-dashboard")
        await expect(case, details, 200)
        poll = re.search(r'data-poll="([^"]+)"', page)
        assert poll
        assert "html" in json.loads(await expect(case, poll[1], 200))


async def confirm_action(case: Case, name: str, target: str) -> None:
    node = await case.shell(
        "from connections.models import Node; print(Node.objects.live().get().pk)"
    )
    values = {"node": node, "user": "1", "address": "203.0.113.7", "token": "1"}
    query = f"target={target}&value={values.get(target, 'nobody')}"
    await expect(case, case.admin(f"{DASHBOARD}action/{name}/?{query}"), 200)


for _action in ACTIONS.values():
    for _target in _action.targets:
        _name = f"confirm_{_action.name}_of_{_target}"
        add_check(_name, confirm_action, _action.name, str(_target))


@check
async def staff_end_a_client_on_the_dashboard(case: Case) -> None:
    async with case.connect("/ws/chat/", await case.token("ended-there")) as client:
        await chat(client)
        query = "target=client&value=ended-there"
        path = case.admin(f"{DASHBOARD}action/end-all/?{query}")
        form = await case.staff.get(path)
        done = await case.staff.post(
            path,
            form.text,
            csrfmiddlewaretoken=find_csrf(form.text),
            reason="a test",
            spread_seconds="0",
        )
        assert done.status_code == 302, done.text
        await case.assert_closed(client, 4009, "kicked")
        await expect(case, done.headers["Location"], 200)


@check
async def staff_send_a_notice(case: Case) -> None:
    async with case.connect("/ws/chat/", await case.token("noticed")) as client:
        await chat(client)
        path = case.admin(f"{DASHBOARD}action/notice/?target=client&value=noticed")
        form = await case.staff.get(path)
        done = await case.staff.post(
            path, form.text, csrfmiddlewaretoken=find_csrf(form.text), text="Hear!"
        )
        assert done.status_code == 302, done.text
        assert (await read(client, "notice"))["text"] == "Hear!"
        await assert_open(client)
        await expect(case, done.headers["Location"], 200)


@check
async def the_socket_of_the_dashboard_is_where_the_page_says(case: Case) -> None:
    page = await expect(case, case.admin(DASHBOARD), 200)
    found = re.search(r'data-socket="([^"]+)"', page)
    assert found, "no path of the socket"
    async with case.connect_to(
        found[1], cookies=case.staff.cookies, origin=case.origin
    ) as watching:
        await watching.send('{"type":"watch","query":"","every_seconds":1}')
        async with asyncio.timeout(scale(20)):
            html = json.loads(await watching.recv())["html"]
        links = re.findall(r'href="(/[^"]+)"', html["nodes"])
        assert all(link.startswith(case.admin()) for link in links), links


@check
async def a_user_who_is_no_staff_sees_no_dashboard(case: Case) -> None:
    async with case.browser() as browser:
        await browser.sign_in("alice")
        page = await browser.get(case.admin(DASHBOARD))
        assert page.status_code in (302, 403), page.status_code
