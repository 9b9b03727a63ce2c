"""Test the issue and the use of tickets, and attacks on them."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import pytest
from channels.db import database_sync_to_async as in_database
from django.contrib.auth.models import User
from django.contrib.sessions.backends.signed_cookies import SessionStore
from django.contrib.sessions.models import Session
from django.test import AsyncClient, override_settings
from django.utils import timezone

from connections.config.auth_sections import JwtConfig, TicketsConfig
from connections.consumers import LimitedJsonConsumer
from connections.credentials.identity import Credential
from connections.credentials.sessions import verify_session
from connections.credentials.tickets import issue_ticket, redeem_ticket
from connections.credentials.tokens import create_access_token, verify_access_token
from connections.exceptions import Refused
from connections.middleware import CredentialMiddleware, OriginMiddleware
from connections.models import AccessToken, Ban, Ticket
from connections.node.current import get_node
from connections.node.node import Node
from connections.testing.communicators import Communicator
from tests.connections.conversations import receive_close, receive_type
from tests.connections.jwt_provider import AUDIENCE, ISSUER, SECRET, SigningKey
from tests.connections.login import log_in

pytestmark = pytest.mark.django_db(transaction=True)

PAGE = "https://app.example.com"
CONFIG = TicketsConfig()
NO_JWT = JwtConfig()


def give(credential: Credential, origin: str = PAGE) -> str:
    ticket = issue_ticket(credential, origin, CONFIG)
    assert ticket is not None
    return ticket


def redeem(ticket: str, origin: str = PAGE) -> Credential:
    return redeem_ticket(ticket, origin, CONFIG, NO_JWT)


def refusal(ticket: str, origin: str = PAGE) -> str:
    with pytest.raises(Refused) as refused:
        redeem(ticket, origin)
    return refused.value.close_reason.reason


def make_token_credential(**values: Any) -> Credential:
    token, _ = create_access_token("alice", **values)
    return verify_access_token(token)


# The credential of a ticket


def test_a_ticket_stands_for_its_token() -> None:
    user = User.objects.create_user("alice")
    expires_at = timezone.now() + timedelta(hours=1)
    first = make_token_credential(user=user, scopes=["/ws/"], expires_at=expires_at)
    assert asdict(redeem(give(first))) == asdict(first)


def test_a_ticket_stands_for_its_session() -> None:
    key = log_in(User.objects.create_user("alice"))
    credential = redeem(give(verify_session(key)))
    assert credential.session.session_key == key
    assert credential.session_digest == verify_session(key).session_digest


def test_a_ticket_is_stored_as_a_hash_and_the_session_until_it_is_used() -> None:
    key = log_in(User.objects.create_user("alice"))
    ticket = give(verify_session(key))
    assert ticket not in str(Ticket.objects.values().get())
    redeem(ticket)
    assert key not in str(Ticket.objects.values().get())


# Attacks


@override_settings(SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies")
def test_a_session_that_is_kept_in_its_cookie_gets_no_ticket() -> None:
    """Its key is all of it, and fits no column."""
    session = SessionStore()
    session["basket"] = secrets.token_hex(300)
    session.save()
    with pytest.raises(Refused):
        give(Credential(client_id="alice", session=session))


@pytest.mark.parametrize("text", ["\x00", "\ud800"])
def test_claims_that_no_database_stores_get_no_ticket(text: str) -> None:
    with pytest.raises(Refused) as refused:
        give(Credential(client_id="jwt:alice", claims={"plan": [text]}))
    assert refused.value.close_reason.code == 4003


def test_a_ticket_used_twice_is_refused() -> None:
    ticket = give(make_token_credential())
    redeem(ticket)
    assert refusal(ticket) == "unauthenticated"


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://app.example.com.evil.example",
        "null",
        "",
    ],
)
def test_a_ticket_of_another_origin_is_refused_and_used_up(origin: str) -> None:
    ticket = give(make_token_credential())
    assert refusal(ticket, origin) == "unauthenticated"
    assert refusal(ticket) == "unauthenticated"


def test_a_page_cannot_use_the_ticket_of_a_program() -> None:
    assert refusal(give(make_token_credential(), ""), PAGE) == "unauthenticated"
    assert redeem(give(make_token_credential(), ""), "").client_id == "alice"


def test_an_origin_is_the_same_with_its_port_written_out() -> None:
    ticket = give(make_token_credential(), PAGE)
    assert redeem(ticket, f"{PAGE}:443").client_id == "alice"


def test_a_ticket_after_half_a_minute_is_refused() -> None:
    ticket = give(make_token_credential())
    Ticket.objects.update(issued_at=timezone.now() - timedelta(seconds=31))
    assert refusal(ticket) == "unauthenticated"


@pytest.mark.parametrize("ticket", ["", "wrong", "\x00", "é" * 10_000, "\ud800"])
def test_an_unknown_ticket_is_refused(ticket: str) -> None:
    assert refusal(ticket) == "unauthenticated"


def test_a_ticket_is_refused_when_its_credential_has_ended() -> None:
    user = User.objects.create_user("alice")
    of_token = give(make_token_credential())
    of_user = give(make_token_credential(user=user))
    of_session = give(verify_session(log_in(user)))
    AccessToken.objects.filter(user=None).revoke()
    User.objects.update(is_active=False)
    Session.objects.all().delete()
    assert refusal(of_token) == "revoked"
    assert refusal(of_user) == "deactivated"
    assert refusal(of_session) == "unauthenticated"


def test_a_deleted_token_takes_its_tickets_along() -> None:
    ticket = give(make_token_credential())
    AccessToken.objects.all().delete()
    assert refusal(ticket) == "unauthenticated"


def test_the_bound_of_tickets_counts_per_client() -> None:
    config = TicketsConfig(max_per_client=3)
    alice = make_token_credential()
    for _ in range(3):
        assert issue_ticket(alice, PAGE, config)
    assert issue_ticket(alice, PAGE, config) is None
    bob = verify_access_token(create_access_token("bob")[0])
    assert issue_ticket(bob, PAGE, config)
    Ticket.objects.update(issued_at=timezone.now() - timedelta(seconds=31))
    assert issue_ticket(alice, PAGE, config)


def test_old_tickets_are_pruned_by_new_ones() -> None:
    give(make_token_credential())
    Ticket.objects.update(issued_at=timezone.now() - timedelta(seconds=61))
    give(make_token_credential())
    assert Ticket.objects.count() == 1


# POST /api/tickets/


@pytest.fixture
async def node(settings: Any) -> AsyncIterator[Node]:
    settings.WEBSOCKET = {
        "allowed_origins": [PAGE],
        "jwt": {"issuer": ISSUER, "audience": AUDIENCE},
        "handshake": {
            "failures_per_address_burst": 5,
            # So few that a pause in the test admits no more.
            "failures_per_address_per_minute": 0.1,
        },
        "tickets": {"max_per_client": 4},
    }
    settings.JWT_SECRET = SECRET
    settings.ALLOWED_HOSTS = ["testserver"]
    node = get_node()
    yield node
    await node.stop()


async def post(
    client: AsyncClient | None = None,
    origin: str | None = PAGE,
    headers: Mapping[str, str] | None = None,
) -> Any:
    client = client or AsyncClient(enforce_csrf_checks=True)
    own = {} if origin is None else {"origin": origin}
    return await client.post("/api/tickets/", headers={**(headers or {}), **own})


async def bearer(**values: Any) -> dict[str, str]:
    token, _ = await in_database(create_access_token)("alice", **values)
    return {"authorization": f"Bearer {token}"}


@pytest.mark.usefixtures("node")
async def test_the_response_with_a_ticket_is_not_cached() -> None:
    response = await post(headers=await bearer())
    assert response.status_code == 201
    assert "no-store" in response["Cache-Control"]
    assert response.json()["expires_in_seconds"] == 30
    credential = await in_database(redeem)(response.json()["ticket"])
    assert credential.client_id == "alice"


async def test_a_jwt_gets_a_ticket_with_its_claims(node: Node) -> None:
    token = SigningKey("HS256", "").sign(plan="gold")
    response = await post(headers={"authorization": f"Bearer {token}"})
    credential = await node.verifier.verify_ticket(response.json()["ticket"], PAGE)
    assert (credential.client_id, credential.jti) == ("jwt:alice", "id-1")
    assert credential.claims["plan"] == "gold"
    assert credential.expires_at is not None


async def log_in_as(client: AsyncClient, name: str = "alice") -> User:
    user: User = await in_database(User.objects.create_user)(name)
    await client.aforce_login(user)
    return user


@pytest.mark.usefixtures("node")
async def test_a_session_gets_a_ticket_with_the_csrf_token_alone() -> None:
    """A foreign page can make a browser send the cookie, not the header."""
    client = AsyncClient(enforce_csrf_checks=True)
    user = await log_in_as(client)
    assert (await post(client, "http://testserver")).status_code == 403
    assert (await post(client, PAGE)).status_code == 403
    assert (await post(client, None)).status_code == 403
    assert not await Ticket.objects.aexists()
    client.cookies["csrftoken"] = "a" * 32
    response = await post(client, "http://testserver", {"x-csrftoken": "a" * 32})
    assert response.status_code == 201
    ticket = response.json()["ticket"]
    credential = await in_database(redeem)(ticket, "http://testserver")
    assert credential.user == user


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("method", ["get", "put", "delete"])
async def test_only_post_returns_a_ticket(method: str) -> None:
    response = await getattr(AsyncClient(), method)("/api/tickets/")
    assert response.status_code == 405


@pytest.mark.usefixtures("node")
async def test_a_foreign_page_gets_no_ticket() -> None:
    for origin in ("https://evil.example", "null", "http://app.example.com"):
        response = await post(origin=origin, headers=await bearer())
        assert (response.status_code, response.json()["error"]) == (403, "forbidden")
    assert not await Ticket.objects.aexists()


@pytest.mark.usefixtures("node")
async def test_an_unknown_client_gets_no_ticket_but_a_reason() -> None:
    past = timezone.now() - timedelta(seconds=1)
    expired = await bearer(expires_at=past)
    for headers, status, reason in (
        ({"authorization": "Bearer wrong"}, 401, "unauthenticated"),
        (expired, 401, "token_expired"),
    ):
        response = await post(headers=headers)
        assert (response.status_code, response.json()["error"]) == (status, reason)
        assert response["WWW-Authenticate"] == "Bearer"
    client = AsyncClient(enforce_csrf_checks=True)
    client.cookies["csrftoken"] = "a" * 32
    response = await post(client, "http://testserver", {"x-csrftoken": "a" * 32})
    assert response.status_code == 401


@pytest.mark.usefixtures("node")
async def test_too_many_tickets_and_too_many_guesses_are_429() -> None:
    headers = await bearer()
    statuses = [(await post(headers=headers)).status_code for _ in range(5)]
    assert statuses == [201] * 4 + [429]
    response = await post(headers=headers)
    assert response["Retry-After"]
    wrong = {"authorization": "Bearer wrong"}
    statuses = [(await post(headers=wrong)).status_code for _ in range(7)]
    assert (statuses[0], statuses[-1]) == (401, 429)


async def test_a_banned_client_gets_no_ticket(node: Node) -> None:
    await Ban.objects.acreate(target="client", value="alice", reason="test")
    await node.gate.refresh()
    response = await post(headers=await bearer())
    assert (response.status_code, response.json()["error"]) == (403, "banned")


# The handshake


class Seeing(LimitedJsonConsumer):
    async def connect(self) -> None:
        await self.accept()
        query = self.scope["query_string"].decode()
        credential = self.scope["credential"]
        await self.send_json({"type": "seen", "query": query, "who": str(credential)})


def shake_hands(
    node: Node, query: str, origin: str | None = PAGE, **headers: str
) -> Communicator:
    application = OriginMiddleware(CredentialMiddleware(Seeing.as_asgi()))
    listed = {"host": "testserver", **headers}
    if origin is not None:
        listed["origin"] = origin
    communicator = Communicator(
        application,
        f"/ws/?{query}",
        [(name.encode(), value.encode()) for name, value in listed.items()],
    )
    communicator.scope.update(node=node, client=["192.0.2.1", 1])
    return communicator


async def ask_for_ticket(**headers: str) -> str:
    response = await post(headers=headers or await bearer())
    ticket: str = response.json()["ticket"]
    return ticket


async def test_a_ticket_opens_a_connection_and_is_removed_from_its_scope(
    node: Node,
) -> None:
    ticket = await ask_for_ticket()
    communicator = shake_hands(node, f"a=1&ticket={ticket}&replaces=x")
    await communicator.connect()
    seen = await receive_type(communicator, "seen")
    assert seen["query"] == "a=1&replaces=x"
    assert ticket not in seen["who"]
    await communicator.disconnect()


@pytest.mark.parametrize(
    "cookie", ['sessionid="\\000aaaaaaaa"', "sessionid=aaaaaaaa\x00", "sessionid=é"]
)
async def test_a_cookie_that_is_no_session_closes_4001(node: Node, cookie: str) -> None:
    communicator = shake_hands(node, "", origin="http://testserver")
    communicator.scope["headers"] += [(b"cookie", cookie.encode("latin-1"))]
    await communicator.connect()
    assert (await receive_close(communicator))["code"] == 4001


@pytest.mark.parametrize(
    "offered",
    [
        *(["a b"], ["é"], ["a\x00"], ["\ud800"], ["chat", "bearer.a\x00"], [""]),
        ["bearer.secret"],
    ],
)
async def test_a_subprotocol_is_a_token(
    node: Node, offered: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The server must be able to select one of them, and says so with 400."""
    caplog.set_level(logging.INFO, "connections")
    communicator = shake_hands(node, "", **await bearer())
    communicator.scope |= {
        "subprotocols": offered,
        "extensions": {"websocket.http.response": {}},
    }
    await communicator.send_input({"type": "websocket.connect"})
    assert (await communicator.receive_output())["status"] == 400
    body = (await communicator.receive_output())["body"]
    assert b"another subprotocol beside bearer.<token>" in body
    assert "no subprotocol" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("path", ["/ws/\x00", "/ws/\ud800", "/ws/é"])
async def test_any_path_can_be_logged(node: Node, path: str) -> None:
    communicator = shake_hands(node, "ticket=wrong")
    communicator.scope["path"] = path
    await communicator.connect()
    assert (await receive_close(communicator))["code"] == 4001


async def test_a_look_up_that_fails_is_counted(node: Node, settings: Any) -> None:
    """The exception is of a session store in its own way."""
    settings.SESSION_ENGINE = "tests.nowhere"
    communicator = shake_hands(node, "", origin="http://testserver")
    communicator.scope["headers"] += [(b"cookie", b"sessionid=aaaaaaaa")]
    await communicator.connect()
    assert (await receive_close(communicator))["code"] == 4500
    counted = [one.outcomes for one in node.counters.routes.values()]
    assert {"internal_error": 1} in counted


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("ticket=T", ""),
        ("ticket=T&b=2", "b=2"),
        ("t%69cket=T", "t%69cket=T"),
        ("a=1&ticket=T", "a=1&"),
        ("ticket=T&ticket=U&myticket=V", "myticket=V"),
    ],
)
async def test_no_ticket_is_left_in_a_query(node: Node, query: str, left: str) -> None:
    communicator = shake_hands(node, query, **await bearer())
    await communicator.connect()
    assert (await receive_type(communicator, "seen"))["query"] == left
    await communicator.disconnect()


async def test_a_ticket_goes_after_a_token_and_before_a_cookie(node: Node) -> None:
    """The order of protocol.md; a cookie does not replace a wrong ticket."""
    user = await in_database(User.objects.create_user)("bob")
    key = await in_database(log_in)(user)
    cookie = {"cookie": f"sessionid={key}"}
    by_token = shake_hands(node, "ticket=wrong", **await bearer(), **cookie)
    await by_token.connect()
    assert "alice" in (await receive_type(by_token, "seen"))["who"]
    await by_token.disconnect()
    by_ticket = shake_hands(node, f"ticket={await ask_for_ticket()}", **cookie)
    await by_ticket.connect()
    assert "alice" in (await receive_type(by_ticket, "seen"))["who"]
    await by_ticket.disconnect()
    wrong = shake_hands(node, "ticket=wrong", **cookie)
    await wrong.connect()
    assert (await receive_close(wrong))["code"] == 4001


async def test_of_many_at_once_one_redeems_a_ticket(node: Node) -> None:
    ticket = await ask_for_ticket()
    results = await asyncio.gather(
        *(node.verifier.verify_ticket(ticket, PAGE) for _ in range(20)),
        return_exceptions=True,
    )
    assert sum(isinstance(one, Credential) for one in results) == 1
    assert sum(isinstance(one, Refused) for one in results) == 19


async def test_a_scoped_token_has_scoped_tickets(node: Node) -> None:
    ticket = await ask_for_ticket(**await bearer(scopes=["/elsewhere/"]))
    communicator = shake_hands(node, f"ticket={ticket}")
    await communicator.connect()
    assert (await receive_close(communicator))["code"] == 4003


async def test_a_page_on_a_session_refreshes_with_a_ticket(node: Node) -> None:
    communicator = shake_hands(node, f"ticket={await ask_for_ticket()}")
    await communicator.connect()
    await communicator.send_json_to(
        {"type": "refresh", "ticket": await ask_for_ticket(**await bearer())}
    )
    assert await receive_type(communicator, "refreshed")
    await communicator.send_json_to({"type": "refresh", "ticket": "wrong"})
    assert "refused" in (await receive_type(communicator, "error"))["message"]
    await communicator.disconnect()
