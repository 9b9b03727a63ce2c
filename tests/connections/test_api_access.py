"""Test who may use the operators' API, and the answers to what is no request of it."""

import threading
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.db import database_sync_to_async as in_database
from django.contrib.auth.models import User
from django.core.signals import got_request_exception
from django.http import HttpRequest
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import NoReverseMatch, reverse
from django.utils import timezone

from connections.api import resources
from connections.api.errors import ApiError
from connections.api.rates import MOST_KEYS, RequestRates
from connections.api.routes import list_operations
from connections.credentials.tokens import create_access_token, verify_access_token
from connections.models import AccessToken, Ban, Connection
from connections.node.current import find_running, get_node
from connections.node.node import Node
from connections.testing import FakeClock
from connections.views.own_loop import release_own_node
from tests.connections.dashboard_pages import make_staff
from tests.connections.failing_database import database_away
from tests.connections.operator import ROOT, Operator, get_code, make_operator

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.urls("tests.connections.operators_urls"),
]

KICK = {"target": "client", "value": "x", "reason": "a test"}


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = get_node()
    yield node
    await node.stop()


@pytest.fixture
async def operator(node: Node) -> Operator:
    return await make_operator(
        "view_connection", "end_connection", scopes=("api:read", "api:kick")
    )


@pytest.mark.usefixtures("node")
async def test_a_request_without_a_valid_token_is_401() -> None:
    for text in (None, "Bearer", "Bearer wrong", "Basic YTpi", "Bearer \u00e9"):
        headers = {} if text is None else {"authorization": text}
        response: Any = await AsyncClient().get(f"{ROOT}connections", headers=headers)
        assert response.status_code == 401
        assert response["WWW-Authenticate"] == "Bearer"
        assert get_code(response.json()) == "unauthenticated"


@pytest.mark.usefixtures("node")
async def test_a_session_cookie_opens_nothing() -> None:
    """A page of another site can make a browser send the cookie."""
    client = AsyncClient()
    user = await User.objects.acreate_superuser("root")
    await client.aforce_login(user)
    assert (await client.get(f"{ROOT}connections")).status_code == 401
    assert (await client.post(f"{ROOT}kick")).status_code == 401


async def test_a_token_that_has_ended_is_401(operator: Operator) -> None:
    tokens = AccessToken.objects.filter(pk=operator.row.pk)
    await tokens.aupdate(expires_at=timezone.now() - timedelta(seconds=1))
    error = (await operator.get("connections", 401))["error"]
    assert "expired" in error["message"]
    await tokens.aupdate(expires_at=None, revoked_at=timezone.now())
    error = (await operator.get("connections", 401))["error"]
    assert "revoked" in error["message"]
    await tokens.aupdate(revoked_at=None)
    await User.objects.aupdate(is_active=False)
    error = (await operator.get("connections", 401))["error"]
    assert "not active" in error["message"]


async def test_a_banned_user_is_403(operator: Operator, node: Node) -> None:
    await Ban.objects.acreate(target="user", value=str(operator.user.pk))
    await node.gate.refresh()
    assert get_code(await operator.get("connections", 403)) == "banned"


@pytest.mark.usefixtures("node")
async def test_a_token_without_scopes_opens_sockets_and_no_api() -> None:
    operator = await make_operator("view_connection", scopes=())
    assert get_code(await operator.get("connections", 403)) == "missing_scope"


async def test_a_token_of_the_api_alone_opens_no_socket(operator: Operator) -> None:
    credential = await in_database(verify_access_token)(operator.token)
    assert not credential.covers("/ws/chat/", "ws/chat/")
    assert not credential.covers("/", "")


@pytest.mark.usefixtures("node")
async def test_each_action_needs_its_own_scope() -> None:
    operator = await make_operator("end_all", "view_connection", scopes=("api:read",))
    for one in list_operations():
        if one.is_action:
            path = one.path.replace("{id}", "1")
            response = await operator.send(one.method, path, {})
            assert response.status_code == 403, one.name
            assert get_code(response.json()) == "missing_scope"


@pytest.mark.usefixtures("node")
async def test_each_operation_needs_a_permission_of_the_user() -> None:
    scopes = tuple({one.scope for one in list_operations()} - {""})
    operator = await make_operator(scopes=scopes)
    for one in list_operations():
        if one.scope:
            path = one.path.replace("{id}", "1")
            response = await operator.send(one.method, path, {} if one.body else None)
            assert response.status_code == 403, one.name
            assert get_code(response.json()) == "missing_permission"
            assert one.permissions[0] in response.json()["error"]["message"]


async def test_all_connections_of_a_client_need_a_permission_of_their_own(
    operator: Operator,
) -> None:
    assert await operator.refused("kick", 403, **KICK) == "missing_permission"


@pytest.mark.usefixtures("node")
async def test_a_token_without_a_user_has_no_permission() -> None:
    token, row = await in_database(create_access_token)("x", scopes=["api:read"])
    operator = Operator(None, token, row)
    assert get_code(await operator.get("connections", 403)) == "missing_permission"


@pytest.mark.usefixtures("node")
async def test_a_superuser_may_do_everything() -> None:
    user = await User.objects.acreate_superuser("root")
    token, row = await in_database(create_access_token)(
        "x", user=user, scopes=["api:read"]
    )
    await Operator(user, token, row).get("sessions")


async def test_another_method_is_405(operator: Operator) -> None:
    for method, path, allowed in (
        ("POST", "connections", "GET, HEAD"),
        ("GET", "kick", "POST"),
        ("OPTIONS", "bans", "GET, HEAD, POST"),
        ("PUT", "bans/1", "DELETE, GET, HEAD"),
        ("PATCH", "nodes/n1/drain", "POST"),
        ("POST", "openapi.json", "GET, HEAD"),
    ):
        response = await operator.send(method, path, {})
        assert response.status_code == 405
        assert response["Allow"] == allowed
        assert get_code(response.json()) == "method_not_allowed"


async def test_head_is_answered_as_get(operator: Operator) -> None:
    response = await operator.send("HEAD", "connections")
    assert (response.status_code, response.content) == (200, b"")


async def test_no_answer_is_cached(operator: Operator) -> None:
    for path in ("connections", "nowhere"):
        response = await operator.send("GET", path)
        assert "no-store" in response["Cache-Control"]


WRONG_BODIES: list[tuple[Any, int, str]] = [
    (b"", 400, "missing_field"),
    (b"{", 400, "invalid_json"),
    (b"[]", 400, "invalid_json"),
    (b"null", 400, "invalid_json"),
    (b"\xff", 400, "invalid_json"),
    (b'{"target": NaN}', 400, "invalid_json"),
    (b'{"target": -1e999}', 400, "invalid_json"),
    (b'{"target": 1, "target": 2}', 400, "invalid_json"),
    (b"[" * 100_000, 400, "invalid_json"),
    (b'{"value": ' + b"9" * 5000 + b"}", 400, "invalid_json"),
    ({}, 400, "missing_field"),
    ({**KICK, "reason": None}, 400, "missing_field"),
    ({**KICK, "why": "x"}, 400, "unknown_field"),
    ({**KICK, "target": "planet"}, 400, "invalid_field"),
    ({**KICK, "target": ["client"]}, 400, "invalid_field"),
    ({**KICK, "value": 5}, 400, "invalid_field"),
    ({**KICK, "value": "\x00"}, 400, "invalid_field"),
    ({**KICK, "value": "\ud800"}, 400, "invalid_field"),
    ({**KICK, "reason": ""}, 400, "invalid_field"),
    ({**KICK, "reason": "x" * 256}, 400, "invalid_field"),
    ({**KICK, "may_return": "yes"}, 400, "invalid_field"),
    ({**KICK, "spread_seconds": -1}, 400, "invalid_field"),
    ({**KICK, "spread_seconds": True}, 400, "invalid_field"),
    (b" " * 300_000, 413, "body_too_large"),
]


async def test_a_number_that_python_does_not_read_is_named(operator: Operator) -> None:
    response = await operator.send("POST", "kick", b'{"value": ' + b"9" * 5000 + b"}")
    message = response.json()["error"]["message"]
    assert message == "The body is not valid JSON: a number has 5000 digits."


async def test_a_wrong_body_gets_a_sentence(operator: Operator) -> None:
    for body, status, code in WRONG_BODIES:
        response = await operator.send("POST", "kick", body)
        assert response.status_code == status, (body, response.content)
        assert get_code(response.json()) == code, body


async def test_a_body_is_json(operator: Operator) -> None:
    form = "application/x-www-form-urlencoded"
    response = await operator.send("POST", "kick", b"target=client", form)
    assert response.status_code == 415
    assert get_code(response.json()) == "not_json"


async def test_an_action_takes_no_parameter(operator: Operator) -> None:
    assert await operator.refused("kick?force=1", 400, **KICK) == "unknown_parameter"


@override_settings(
    WEBSOCKET={"api": {"burst_requests": 2, "requests_per_second": 0.01}}
)
async def test_a_token_has_a_rate_of_its_own(operator: Operator) -> None:
    for _ in range(2):
        await operator.get("connections")
    response = await operator.send("GET", "connections")
    assert response.status_code == 429
    assert 1 < int(response["Retry-After"]) <= 100
    assert get_code(response.json()) == "rate_limited"
    other, row = await in_database(create_access_token)(
        "y", user=operator.user, scopes=["api:read"]
    )
    await Operator(operator.user, other, row).get("connections")


def test_a_rate_fills_up_again() -> None:
    clock = FakeClock()
    rates = RequestRates(clock)
    config = (0.1, 1)
    rates.take("a", *config)
    with pytest.raises(ApiError) as refused:
        rates.take("a", *config)
    assert refused.value.headers == {"Retry-After": "10"}
    clock.advance(10)
    rates.take("a", *config)


def test_what_is_charged_later_has_to_fill_up_too() -> None:
    """A charge may be larger than the burst."""
    clock = FakeClock()
    rates = RequestRates(clock)
    rates.take("a", 1, 5)
    rates.charge("a", 99)
    with pytest.raises(ApiError) as refused:
        rates.take("a", 1, 5)
    assert refused.value.headers == {"Retry-After": "96"}
    rates.charge("unknown", 5)
    rates.take("unknown", 1, 5)
    clock.advance(96)
    rates.take("a", 1, 5)


def test_the_remembered_tokens_are_bounded() -> None:
    rates = RequestRates(FakeClock())
    for number in range(MOST_KEYS + 5):
        rates.take(str(number), 10, 100)
    assert len(rates) == MOST_KEYS


async def test_an_exception_is_answered_with_json_and_reported(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported = []

    def report(**kwargs: Any) -> None:
        reported.append(kwargs["request"].path)

    def fail(*args: Any) -> None:
        raise RuntimeError("a-planted-secret")

    got_request_exception.connect(report)
    monkeypatch.setattr(User, "has_perm", fail)
    try:
        content = await operator.get("connections", 500)
    finally:
        got_request_exception.disconnect(report)
    assert get_code(content) == "failed"
    assert "a-planted-secret" not in str(content)
    assert reported == [f"{ROOT}connections"]


@override_settings(ALLOWED_HOSTS=["api.example.com"])
async def test_a_foreign_host_is_400(operator: Operator) -> None:
    response = await operator.send("GET", "connections", host="evil.example")
    assert response.status_code == 400


async def test_the_api_works_behind_a_login_middleware(
    operator: Operator, settings: Any
) -> None:
    settings.MIDDLEWARE = [
        *settings.MIDDLEWARE,
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
    ]
    await operator.get("connections")


async def test_the_api_works_in_a_project_whose_requests_are_transactions(
    operator: Operator, settings: Any
) -> None:
    from django.db import connection

    connection.settings_dict["ATOMIC_REQUESTS"] = True
    try:
        await operator.get("connections")
    finally:
        connection.settings_dict["ATOMIC_REQUESTS"] = False
    assert not await Connection.objects.aexists()


@pytest.mark.urls("orchestra.urls")
def test_the_api_is_off_until_a_project_includes_it() -> None:
    with pytest.raises(NoReverseMatch):
        reverse("operators_api")


def test_sessions_are_a_resource_of_their_own_app() -> None:
    """Without it, the API has no such list."""
    assert [one.name for one in resources.list_added()] == ["sessions"]


async def test_an_outage_of_the_database_is_503(operator: Operator) -> None:
    outage = database_away()
    await in_database(outage.__enter__)()
    try:
        response = await operator.send("GET", "connections")
    finally:
        await in_database(outage.__exit__)(None, None, None)
    assert response.status_code == 503
    assert response["Retry-After"] == "5"
    assert get_code(response.json()) == "unavailable"


def test_a_process_without_sockets_answers_and_keeps_no_node() -> None:
    """Under WSGI each request has an event loop of its own."""
    user = make_staff("operator", "view_node")
    token, _ = create_access_token("x", user=user, scopes=["api:read"])
    headers = {"authorization": f"Bearer {token}"}
    known = set(threading.enumerate())
    for path in (f"{ROOT}nodes", "/livez", "/readyz", "/metrics"):
        assert Client().get(path, headers=headers).status_code in (200, 503), path
    assert Client().post("/api/tickets/", headers=headers).status_code == 201
    started = set(threading.enumerate()) - known
    assert [one.name for one in started if one.name.startswith("connections-")] == []


def test_the_node_of_one_request_is_not_that_of_the_process() -> None:
    """Work that another thread hands to it would end with the request."""

    @release_own_node
    async def view(request: HttpRequest) -> Any:
        get_node()
        return find_running()

    assert async_to_sync(view)(RequestFactory().get("/")) is None
