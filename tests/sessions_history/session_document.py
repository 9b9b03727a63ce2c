"""Hold answers about sessions against the OpenAPI document."""

import json
import re
from importlib.util import find_spec
from typing import Any

from django.http import QueryDict
from django.urls import resolve

from sessions_history.http.openapi import describe_sessions

ROOT = "/api/sessions"
_SHOWN = re.compile(
    "etag|location|allow|www-authenticate|retry-after|session-event|(stream|producer)-.*"
)
"""The headers that the document has to name."""


def name_path(route: str) -> str:
    """Return a path of Django or of the document, without its parameters' names."""
    return re.sub(r"<\w+:\w+>|{\w+}", "{}", route)


def find_item(path: str) -> dict[str, Any]:
    """Return the methods that the document has for the path of a request."""
    route = name_path(resolve(path).route).removeprefix(ROOT.lstrip("/"))
    paths = describe_sessions(ROOT)["paths"]
    return next(item for name, item in paths.items() if name_path(name) == route)


def check_answer(method: str, url: str, content: bytes, response: Any) -> None:
    """Check a request and its answer against the document."""
    path, _, query = url.partition("?")
    document, item = describe_sessions(ROOT), find_item(path)
    described = item.get(method.lower())
    if response.status_code == 405:
        assert described is None
        answer = document["components"]["responses"]["MethodNotAllowed"]
        assert response.headers["Allow"] == ", ".join(sorted(map(str.upper, item)))
    else:
        assert described is not None, (method, url)
        answer = described["responses"].get(str(response.status_code))
    assert answer is not None, (method, url, response.status_code)
    given = {name.lower() for name in response.headers}
    named = {name.lower() for name in answer.get("headers", ())}
    if response.status_code < 400:
        named.add("retry-after")  # Of a node that drains.
    assert {one for one in given if _SHOWN.fullmatch(one)} <= named, (method, url)
    kind = response.headers.get("Content-Type", "")
    if method != "HEAD" and response.content:
        check_schema(answer["content"][kind]["schema"], json.loads(response.content))
    elif method != "HEAD":
        assert "content" not in answer or response.status_code == 200, (method, url)
    if described is not None and response.status_code < 300:
        check_request(described, query, content)


def check_request(described: dict[str, Any], query: str, content: bytes) -> None:
    """Check that the document allows a request that was served."""
    names = {one["name"] for one in described["parameters"] if one["in"] == "query"}
    assert set(QueryDict(query)) <= names | {"ticket"}, query
    body = described.get("requestBody")
    if body is None:
        assert not content
    elif content:
        schema = body["content"]["application/json"]["schema"]
        check_schema(schema, json.loads(content))
    else:
        assert not body["required"]


def check_schema(schema: dict[str, Any], content: Any) -> None:
    """Check a value where the validator is installed."""
    if find_spec("openapi_schema_validator") is not None:
        from openapi_schema_validator import OAS31Validator

        assert list(OAS31Validator(schema).iter_errors(content)) == []
