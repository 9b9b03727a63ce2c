"""Test the OpenAPI document of the HTTP API of sessions against what is answered."""

import json
import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import pytest
from channels.db import database_sync_to_async as in_database
from django.contrib.auth.models import User
from django.test import AsyncClient, override_settings
from django.test.client import FakePayload
from django.utils import timezone

from connections.close_codes import CLOSE_REASONS
from connections.exceptions import DatabaseUnavailable
from connections.models import Ban
from connections.node.node import Node
from connections.storage.database import Database
from connections.testing import wait_until
from connections.testing.communicators import make_config
from sessions_history import members
from sessions_history.commits import commit
from sessions_history.exceptions import EntryRefused
from sessions_history.http import messages, schemas
from sessions_history.http.openapi import describe_sessions, list_errors
from sessions_history.http.operation import EVERY, Operation
from sessions_history.http.operations import OPERATIONS
from sessions_history.models import (
    DeletedSession,
    HistoryEntry,
    Session,
    SessionInvitation,
    SessionMember,
)
from sessions_history.session_ids import make_session_id
from sessions_history.urls import urlpatterns
from tests.project import ROOT as REPOSITORY
from tests.sessions_history.asking import add_session, ask, bearer, read_error
from tests.sessions_history.session_document import check_answer, find_item, name_path
from tests.sessions_history.talks import talk

pytestmark = pytest.mark.django_db(transaction=True)

BY_NAME = {one.name: one for one in OPERATIONS}
UNDER_TEST = [one.name for one in OPERATIONS if one.method != "HEAD"]
ID = "abcdefghijkl-1"
MESSAGE = {"type": "message", "id": ID, "data": 1}
BODIES: dict[str, Any] = {
    "rename_session": {"title": "x"},
    "append_to_stream": 1,
    "send_message": MESSAGE,
    "change_member": {"role": "reader"},
    "invite": {"role": "reader"},
}
REGENERATE = {"type": "regenerate", "id": ID, "offset": 2}


class CutBody(FakePayload):
    """A body that does not arrive."""

    def read(self, *args: Any, **kwargs: Any) -> bytes:
        raise OSError("the client has left")


class Cut(AsyncClient):
    """A client that leaves before its body is whole."""

    async def request(self, **request: Any) -> Any:
        return await super().request(**{**request, "_body_file": CutBody(b"{}")})


class Failing(Database):
    """A database that does nothing but raise."""

    def __init__(self, cause: Exception) -> None:
        super().__init__()
        self.cause = cause

    async def read(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        raise self.cause

    async def write_urgently(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        raise self.cause


class Refusing(Database):
    """A database that refuses each row."""

    async def write_urgently(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        if work is commit:
            return [EntryRefused()]
        return await super().write_urgently(work, *args, **kwargs)


class World:
    """A session of alice with a member, an answer that grows, and an invitation."""

    def __init__(self, node: Node, operation: Operation) -> None:
        self.node = node
        self.operation = operation
        self.body = BODIES.get(operation.name)

    async def begin(self) -> None:
        self.alice = await User.objects.acreate(username="alice")
        self.bob = await User.objects.acreate(username="bob")
        self.owner = f"user:{self.alice.pk}"
        self.session = await add_session(self.owner, entries=2)
        answers = HistoryEntry.objects.filter(offset=2)
        text = '{"text":""}'
        await answers.aupdate(sender="server", state="streaming", data=text)
        await in_database(members.add)(self.session, self.bob, "reader")
        self.invitation, self.token = await in_database(members.invite)(
            self.session, "writer"
        )
        self.headers = await bearer(self.owner, user=self.alice)
        self.guest = await bearer(f"user:{self.bob.pk}", user=self.bob)
        if self.operation.name == "join":
            self.body = {"token": self.token}
            carol = await User.objects.acreate(username="carol")
            self.headers = await bearer("carol", user=carol)

    async def send(
        self,
        query: str = "",
        client: AsyncClient | None = None,
        *,
        session: str = "",
        key: object = None,
        raw: bytes | None = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        without: tuple[str, ...] = (),
    ) -> Any:
        """Send the request of the operation, and hold its answer to the document."""
        default = {"user": self.bob.pk, "invitation": self.invitation.pk}
        path = re.sub(
            r"{(\w+)}",
            lambda found: (
                session or self.session
                if found[1] == "session_id"
                else str(key or default[found[1]])
            ),
            self.operation.path,
        )
        if raw is None:
            raw = b"" if self.body is None else json.dumps(self.body).encode()
        client = client or AsyncClient(enforce_csrf_checks=True)
        given = {**self.headers, **(headers or {})}
        for name in without:
            given.pop(name)
        url, method = f"/api/sessions{path}{query}", self.operation.method
        response: Any = await client.generic(
            method, url, raw, content_type, headers=given
        )
        check_answer(method, url, raw, response)
        return response

    async def add_other(self) -> str:
        return await add_session("mallory")


Provoke = Callable[[World], Any]


async def exceed_rate(world: World) -> Any:
    rates = {"messages_per_second": 0.01, "burst_messages": 1}
    world.node.config = make_config(rate_limit=rates)
    await world.send()
    return await world.send()


async def ban(world: World) -> Any:
    client = "carol" if world.operation.name == "join" else world.owner
    await Ban.objects.acreate(target="client", value=client, reason="test")
    await world.node.gate.refresh()
    return await world.send()


async def fail_with(world: World, cause: Exception) -> Any:
    database, world.node.database = world.node.database, Failing(cause)
    try:
        return await world.send(client=AsyncClient(raise_request_exception=False))
    finally:
        # The node closes the one that it has at its end.
        world.node.database = database


async def come_to_another_host(world: World) -> Any:
    # Other middleware may ask for the Host first, and Django answers with a page.
    with override_settings(MIDDLEWARE=[]):
        return await world.send(headers={"host": "evil.example"})


async def send_without_scope(world: World) -> Any:
    other = await bearer("dave", scopes=["/ws/chat/"])
    return await world.send(headers=other)


async def send_body(world: World, **changes: Any) -> Any:
    return await world.send(raw=json.dumps({**(world.body or {}), **changes}).encode())


async def find_nothing(world: World) -> Any:
    return await world.send(session=await world.add_other())


async def pass_a_wrong_parameter(world: World) -> Any:
    if world.operation.name.startswith("list_"):
        return await world.send("?limit=0")
    if world.operation.method == "GET":
        return await world.send("?offset=x")
    return await world.send(raw=json.dumps([0] * 101).encode())


async def hold_a_wrong_message(world: World) -> Any:
    if world.operation.name == "begin_stream":
        new = make_session_id(world.owner)
        return await world.send(session=new, raw=b'"\\u0000"')
    raw = b'{"type": "none"}' if world.body == MESSAGE else b'"\\u0000"'
    return await world.send(raw=raw)


async def reuse_a_deleted_id(world: World) -> Any:
    new = make_session_id(world.owner)
    await DeletedSession.objects.acreate(session_id=new)
    return await world.send(session=new)


async def begin_too_many(world: World) -> Any:
    if world.operation.name == "change_member":
        await add_session(f"user:{world.bob.pk}")
        return await send_body(world, role="owner")
    return await world.send(session=make_session_id(world.owner))


async def store_too_much(world: World) -> Any:
    if world.operation.name == "begin_stream":
        new = make_session_id(world.owner)
        return await world.send(session=new, raw=b"[1, 2]")
    return await world.send()


async def refuse_rows(world: World) -> Any:
    if world.operation.name == "begin_stream":
        return await world.send(session=make_session_id(world.owner), raw=b"1")
    return await world.send()


async def write_as_a_reader(world: World) -> Any:
    return await world.send(headers=world.guest)


async def come_from_another_page(world: World) -> Any:
    return await world.send(
        without=("authorization",), headers={"origin": "https://evil.example"}
    )


async def come_as_an_old_start(world: World) -> Any:
    steps = {"producer-id": "p", "producer-seq": "0"}
    await world.send(headers={**steps, "producer-epoch": "1"})
    return await world.send(headers={**steps, "producer-epoch": "0"})


async def leave_out_an_append(world: World) -> Any:
    steps = {"producer-id": "p", "producer-epoch": "0", "producer-seq": "5"}
    return await world.send(headers=steps)


async def begin_the_log_anew(world: World) -> Any:
    cursor = (await world.send("?limit=1")).json()["next_cursor"]
    await Session.objects.aupdate(epoch="e2")
    return await world.send(f"?cursor={cursor}")


async def touch_the_owner(world: World) -> Any:
    # An owner that the session was handed over to has a row.
    await SessionMember.objects.acreate(
        session_id=world.session, user=world.alice, role="owner"
    )
    return await world.send(key=world.alice.pk)


async def fill_with_members(world: World) -> Any:
    names = [User(username=f"u{number}") for number in range(100)]
    users = await User.objects.abulk_create(names)
    rows = (
        SessionMember(session_id=world.session, user=one, role="reader")
        for one in users
    )
    await SessionMember.objects.abulk_create(rows)
    return await world.send()


async def join_without_a_user(world: World) -> Any:
    return await world.send(headers=await bearer("nobody"))


async def name_no_invitation(world: World) -> Any:
    if world.operation.name == "join":
        return await send_body(world, token="x")
    return await world.send(key="none")


async def join_when_invitation(world: World, **change: Any) -> Any:
    await SessionInvitation.objects.aupdate(**change)
    return await world.send()


now = timezone.now
PROVOKE: dict[str, Provoke] = {
    "banned": ban,
    "body_too_large": lambda world: world.send(raw=b" " * 2_000_000),
    "changed": lambda world: world.send(headers={"if-match": '"x"'}),
    "conflict": lambda world: world.send(raw=json.dumps(REGENERATE).encode()),
    "csrf": lambda world: world.send(
        without=("authorization",), headers={"origin": "http://testserver"}
    ),
    "deleted": reuse_a_deleted_id,
    "disallowed_host": come_to_another_host,
    "failed": lambda world: fail_with(world, RuntimeError("a bug")),
    "forbidden": come_from_another_page,
    "gone": lambda world: world.send("?offset=abc_0000000000000001"),
    "incomplete": lambda world: world.send(client=Cut()),
    "internal": refuse_rows,
    "invalid_cursor": lambda world: world.send("?cursor=x"),
    "invalid_field": lambda world: send_body(
        world, **{key: [] for key in world.body or ()}
    ),
    "invalid_json": lambda world: world.send(raw=b"{"),
    "invalid_message": hold_a_wrong_message,
    "invalid_parameter": pass_a_wrong_parameter,
    "invitation_expired": lambda world: join_when_invitation(
        world, expires_at=now() - timedelta(days=1)
    ),
    "invitation_revoked": lambda world: join_when_invitation(world, revoked_at=now()),
    "invitation_unknown": name_no_invitation,
    "invitation_used": lambda world: join_when_invitation(world, used_at=now()),
    "missing_field": lambda world: world.send(raw=b"{}"),
    "missing_scope": send_without_scope,
    "no_user": join_without_a_user,
    "not_found": find_nothing,
    "not_json": lambda world: world.send(raw=b'{"a": 1}', content_type="text/plain"),
    "not_owner": lambda world: world.send(headers=world.guest, key=world.alice.pk),
    "not_supported": lambda world: world.send(headers={"stream-seq": "1"}),
    "owner_stays": touch_the_owner,
    "rate_limited": exceed_rate,
    "repeated_parameter": lambda world: world.send("?x=1&x=2"),
    "reset": begin_the_log_anew,
    "sequence_gap": leave_out_an_append,
    "sessions_full": begin_too_many,
    "stale_producer": come_as_an_old_start,
    "storage_full": store_too_much,
    "too_many_members": fill_with_members,
    "unauthenticated": lambda world: world.send(
        headers={"authorization": "Bearer wrong"}
    ),
    "unavailable": lambda world: fail_with(world, DatabaseUnavailable("away")),
    "unknown_field": lambda world: send_body(world, none=1),
    "unknown_parameter": lambda world: world.send("?x=1"),
}
"""How a request gets an error, by its code."""

CONFIGS: dict[str, Any] = {
    "sessions_full": {"sessions": {"max_sessions_per_client": 1}},
    "storage_full": {"sessions": {"max_entries_per_client": 1}},
}


def list_own_errors(operation: Operation) -> list[tuple[int, str]]:
    """Return the errors of an operation but those of close codes alone."""
    of_sockets = {one.reason for one in CLOSE_REASONS.values()}
    always = {code for codes in EVERY.values() for code in codes}
    return [
        (status, code)
        for status, codes in list_errors(operation).items()
        for code in codes
        if operation.name != "read_stream"
        or code in EVERY.get(status, ())
        or code not in of_sockets - always - {"not_found"}
    ]


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        pytest.param(name, *error, id=f"{name}-{error[1]}")
        for name in UNDER_TEST
        for error in list_own_errors(BY_NAME[name])
    ],
)
async def test_each_error_of_the_document_is_answered(
    node: Node, settings: Any, name: str, status: int, code: str
) -> None:
    if sections := CONFIGS.get(code):
        settings.WEBSOCKET = sections
        node.config = make_config(**sections)
    if code == "internal":
        node.database = Refusing()
    world = World(node, BY_NAME[name])
    await world.begin()
    response = await PROVOKE[code](world)
    assert read_error(response, status) == code
    # The options of the operators' API limit no client.
    assert "api." not in response.json()["error"]["message"]


@pytest.mark.usefixtures("node")
async def test_the_document_has_the_paths_and_methods_of_the_views() -> None:
    routes = {name_path(str(one.pattern)) for one in urlpatterns}
    paths = describe_sessions("")["paths"]
    assert routes == {name_path(f"api/sessions{path}") for path in paths}
    for path in paths:
        url = re.sub(r"{\w+}", "x", path)
        refused = await ask("BREW", url[1:])
        assert read_error(refused, 405) == "method_not_allowed"
        methods = {one.upper() for one in find_item(f"/api/sessions{url}")}
        assert set(refused["Allow"].split(", ")) == methods


def test_a_validator_accepts_the_document() -> None:
    reason = "only the main cell has the validators"
    documents = pytest.importorskip("openapi_spec_validator", reason=reason)
    document = describe_sessions("/api/sessions")
    assert document["openapi"] == "3.1.0"
    assert list(documents.OpenAPIV31SpecValidator(document).iter_errors()) == []


async def test_the_document_needs_no_credential_and_names_its_own_root() -> None:
    response = await ask("GET", "openapi.json")
    assert response.json() == describe_sessions("/api/sessions")
    assert (await ask("HEAD", "openapi.json")).status_code == 200


def test_the_document_has_each_type_of_a_message() -> None:
    described = {one["title"] for one in schemas.MESSAGES["oneOf"]}
    assert described == set(messages.KINDS)


def test_every_code_in_the_source_is_in_the_document() -> None:
    found = {
        code
        for path in (REPOSITORY / "sessions_history" / "http").glob("*.py")
        for code in re.findall(
            r'(?:ApiError\(\s*\d+,|forbidden\(|Answer\(\s*\d+,)\s*f?"([^"{]+)"',
            path.read_text(),
        )
    }
    known = {
        code
        for one in OPERATIONS
        for codes in list_errors(one).values()
        for code in codes
    }
    assert len(found) > 10
    assert found - known == {"method_not_allowed"}


def list_answers() -> list[Any]:
    """Return the answers that are no errors; a live server gives that of a poll."""
    return [
        pytest.param(one.name, status, id=f"{one.name}-{status}")
        for one in OPERATIONS
        for status in one.answers
        if (one.name, status) != ("read_stream", 204)
    ]


@pytest.mark.parametrize(("name", "status"), list_answers())
async def test_each_answer_of_the_document_is_given(
    node: Node, name: str, status: int
) -> None:
    # A node knows who is present once it has a connection in a room.
    with_presence = name == "list_present"
    talking: Any = talk(node, presence=1) if with_presence else nullcontext()
    async with talking:
        await wait_until(lambda: bool(node.presence.measure()[1]) or not with_presence)
        response = await get_answer(World(node, BY_NAME[name]), name, status)
    assert response.status_code == status, response.content


async def get_answer(world: World, name: str, status: int) -> Any:
    """Send the request of an operation that gets an answer of a status."""
    await world.begin()
    match name, status:
        case "begin_stream", 201:
            return await world.send(session=make_session_id(world.owner))
        case "append_to_stream", 200:
            step = {"producer-id": "p", "producer-epoch": "0", "producer-seq": "0"}
            return await world.send(headers=step)
        case "send_message", 204:
            return await world.send(raw=b'{"type": "cancel", "offset": 2}')
        case _, 304:
            etag = (await world.send())["ETag"]
            return await world.send(headers={"if-none-match": etag})
        case _:
            return await world.send()
