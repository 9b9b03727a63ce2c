"""Test the OpenAPI document and the page of the API against what it answers."""

import argparse
import re
import shlex
from collections.abc import AsyncIterator
from typing import Any

import pytest
from channels.db import database_sync_to_async as in_database
from django.test import AsyncClient, override_settings

from connections.api.openapi import describe_api
from connections.api.routes import list_operations
from connections.credentials.identity import API_SCOPES
from connections.node.current import get_node
from tests.connections.operator import ROOT, Operator, make_operator
from tests.connections.rows import make_connection_row, make_node_row
from tests.pages import API
from tests.project import ROOT as REPOSITORY

REASON = "only the main cell has the validators"
schemas = pytest.importorskip("openapi_schema_validator", reason=REASON)
documents = pytest.importorskip("openapi_spec_validator", reason=REASON)

WORDS = ("parameter", "field")
"""What the keys of a query string and of a body are called in codes."""

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.urls("tests.connections.operators_urls"),
]


@pytest.fixture
async def operator() -> AsyncIterator[Operator]:
    node = get_node()
    names = {name for one in list_operations() for name in one.permissions}
    codenames = (name.partition(".")[2] for name in names)
    yield await make_operator(*codenames, scopes=tuple(API_SCOPES))
    await node.stop()


def test_a_validator_accepts_the_document() -> None:
    document = describe_api("/api/v1")
    assert document["openapi"] == "3.1.0"
    assert list(documents.OpenAPIV31SpecValidator(document).iter_errors()) == []


async def test_the_document_needs_no_token_and_names_its_own_root() -> None:
    response: Any = await AsyncClient().get(f"{ROOT}openapi.json")
    assert response.status_code == 200
    document = response.json()
    assert document["servers"] == [{"url": "/api/v1"}]
    assert set(document["paths"]) == {f"/{one.path}" for one in list_operations()}


async def test_every_answer_follows_its_schema(operator: Operator) -> None:
    def create() -> None:
        make_node_row("n1")
        make_connection_row("c1", user=operator.user, flight=[{"event": "x"}])

    await in_database(create)()
    ban = await check(
        operator, "POST", "bans", target="user", value="operator", reason="a test"
    )
    reason = {"reason": "a test"}
    target = {"target": "connection", "value": "c1"}
    await check(operator, "DELETE", "bans/{id}", ban["id"])
    await check(operator, "POST", "kick", **target, **reason)
    await check(operator, "POST", "notice", **target, text="Hear!")
    await check(operator, "POST", "nodes/{id}/drain", "n1", **reason)
    await check(operator, "POST", "nodes/{id}/serve", "n1", **reason)
    token = await check(operator, "POST", "tokens", client="x")
    await check(operator, "POST", "tokens/{id}/revoke", token["id"], **reason)
    for path in ("connections", "clients", "nodes", "bans", "tokens", "audit"):
        page = await check(operator, "GET", path)
        for item in page["items"]:
            await check(operator, "GET", f"{path}/{{id}}", item["id"])
    for path in ("alerts", "errors", "sessions", "usage", "usage/now"):
        await check(operator, "GET", path)


async def check(
    operator: Operator, method: str, path: str, key: object = "", **body: Any
) -> Any:
    """Send a request, and check its answer against the document."""
    response = await operator.send(
        method, path.replace("{id}", str(key)), body if method == "POST" else None
    )
    described = describe_api("/")["paths"][f"/{path}"][method.lower()]
    answer = described["responses"][str(response.status_code)]
    schema = answer["content"]["application/json"]["schema"]
    content = response.json()
    errors = list(schemas.OAS31Validator(schema).iter_errors(content))
    assert errors == [], (path, errors)
    return content


@override_settings(WEBSOCKET={"api": {"publish_groups": ["news", "chat.*"]}})
async def test_the_commands_of_the_page_are_answered(operator: Operator) -> None:
    curl = argparse.ArgumentParser()
    curl.add_argument("-H", action="append")
    curl.add_argument("-d")
    curl.add_argument("url")
    commands = re.findall(r"^\$ curl (.*)$", API.read_text(), re.MULTILINE)
    assert len(commands) >= 8
    for command in commands:
        given = curl.parse_args(shlex.split(command))
        assert given.H[0] == "Authorization: Bearer $TOKEN"
        assert ("Content-Type: application/json" in given.H) == bool(given.d)
        path = given.url.removeprefix(f"$URL{ROOT}")
        body = given.d.encode() if given.d else None
        response = await operator.send("POST" if given.d else "GET", path, body)
        assert response.status_code in (200, 201, 202), (command, response.content)


def test_the_page_names_every_scope_and_every_code_of_an_error() -> None:
    page = API.read_text()
    assert [name for name in API_SCOPES if f"`{name}`" not in page] == []
    codes: set[str] = set()
    for path in (REPOSITORY / "connections" / "api").glob("*.py"):
        found = re.findall(
            r'(?:ApiError\(\s*\d+,|forbidden\()\s*f?"([^"]+)"', path.read_text()
        )
        codes.update(found)
    words = {code.replace("{word}", word) for code in codes for word in WORDS}
    words.remove("missing_parameter")  # None is required.
    assert len(words) > 15
    assert [code for code in sorted(words) if f"`{code}`" not in page] == []
