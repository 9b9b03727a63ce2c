"""The OpenAPI document of the HTTP API of sessions, and the view that serves it."""

import re
from functools import lru_cache
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from connections.api.answers import answer_errors
from connections.api.openapi import ERROR
from connections.api.operations import describe_object
from connections.storage.transactions import begin_no_transaction
from connections.version import VERSION
from sessions_history.http.calls import require_method
from sessions_history.http.operation import EVERY, Answer, Operation, merge
from sessions_history.http.operations import DOCUMENT, OPERATIONS

_HEADERS = {
    "ETag": "What the answer is, for If-None-Match.",
    "Location": "The URL of the stream.",
    "Stream-Next-Offset": "The offset of the next request.",
    "Stream-Up-To-Date": "true: there is no more for now.",
    "Stream-Cursor": "The cursor of the next live request.",
    "Session-Event": "A message about presence or typing; there may be several.",
    "X-Connection-Id": "The connection of a live request.",
    "Producer-Epoch": "The start of the producer.",
    "Producer-Seq": "The last append of the producer.",
    "Producer-Expected-Seq": "The append that is missing.",
    "Producer-Received-Seq": "The append that came.",
    "Retry-After": "When to ask again, in seconds.",
    "WWW-Authenticate": "Bearer.",
    "Allow": "The methods of the path.",
}
_HEADERS_OF_ERRORS = {
    401: ("WWW-Authenticate",),
    405: ("Allow",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}
_HEADERS_OF_CODES = {
    "stale_producer": ("Producer-Epoch",),
    "sequence_gap": ("Producer-Expected-Seq", "Producer-Received-Seq"),
}
_ABOUT = """\
Reads and changes the sessions of a client. The credential is that of a handshake: a \
bearer token, a ticket in the query, or the cookie of a signed-in user; with a cookie \
a change needs Django's CSRF token in X-CSRFToken.

HEAD is answered as GET is, without a body. Any other method of a path is answered as \
the response MethodNotAllowed says.

Every answer of a node that drains has Retry-After."""


@login_not_required
@begin_no_transaction
@csrf_exempt
@answer_errors
async def openapi(request: HttpRequest) -> HttpResponse:
    """Serve the document; it needs no credential."""
    require_method(request, ("GET", "HEAD"))
    root_url = request.path.removesuffix(DOCUMENT.path)
    return JsonResponse(describe_sessions(root_url))


@lru_cache(4)
def describe_sessions(root_url: str) -> dict[str, Any]:
    """Return the document; paths are below the root."""
    paths: dict[str, dict[str, Any]] = {}
    for one in OPERATIONS:
        paths.setdefault(one.path, {})[one.method.lower()] = _describe(one)
    for item in paths.values():
        if "get" in item and "head" not in item:
            item["head"] = _describe_head(item["get"])
    not_allowed = _describe_errors(405, ("method_not_allowed",))
    return {
        "openapi": "3.1.0",
        "info": {"title": "Sessions", "version": VERSION, "description": _ABOUT},
        "servers": [{"url": root_url}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "responses": {"MethodNotAllowed": not_allowed},
            "schemas": {"Error": ERROR},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "ticket": {"type": "apiKey", "in": "query", "name": "ticket"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": "sessionid"},
            },
        },
    }


def list_errors(operation: Operation) -> dict[int, tuple[str, ...]]:
    """Return the codes of all errors of an operation by their status."""
    if operation is DOCUMENT:
        return operation.errors
    return merge(EVERY, operation.errors)


def _describe(operation: Operation) -> dict[str, Any]:
    responses = {
        str(status): _describe_answer(one) for status, one in operation.answers.items()
    }
    for status, codes in list_errors(operation).items():
        responses[str(status)] = _describe_errors(status, codes)
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.name.replace("_", " ").capitalize(),
        "description": operation.about,
        "parameters": [
            *(_describe_path(name) for name in re.findall(r"{(\w+)}", operation.path)),
            *operation.query,
            *(
                _describe_text(name, "header", about)
                for name, about in operation.request_headers.items()
            ),
        ],
        "responses": responses,
        "security": [],
    }
    if operation.body is not None:
        content = {"application/json": {"schema": operation.body}}
        required = operation.is_body_required
        described["requestBody"] = {"required": required, "content": content}
    if operation is not DOCUMENT:
        described["security"] = [{"bearer": []}, {"ticket": []}, {"cookie": []}]
    return described


def _describe_head(read: dict[str, Any]) -> dict[str, Any]:
    """Return the object of a HEAD that is answered as a GET, without a body."""
    responses = {
        status: {name: one[name] for name in one if name != "content"}
        for status, one in read["responses"].items()
    }
    names = {"operationId": f"head_{read['operationId']}"}
    return {**read, **names, "responses": responses}


def _describe_path(name: str) -> dict[str, Any]:
    abouts = {
        "session_id": "The id of the session; of a stream and its messages also the"
        " client's own name, of 1 to 100 of A-Z a-z 0-9 . _ ~ -",
        "user": "The key of the user.",
        "invitation": "The id of the invitation.",
    }
    return {**_describe_text(name, "path", abouts[name]), "required": True}


def _describe_text(name: str, place: str, about: str) -> dict[str, Any]:
    schema = {"type": "string"}
    return {"name": name, "in": place, "description": about, "schema": schema}


def _describe_answer(answer: Answer) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.about}
    if answer.content:
        described["content"] = {
            kind: {"schema": schema} for kind, schema in answer.content.items()
        }
    return described | _describe_headers(*answer.headers)


def _describe_errors(status: int, codes: tuple[str, ...]) -> dict[str, Any]:
    names = list(_HEADERS_OF_ERRORS.get(status, ()))
    for code in codes:
        names += _HEADERS_OF_CODES.get(code, ())
    properties: dict[str, dict[str, Any]] = {
        "code": {"type": "string", "enum": list(codes)},
        "message": {"type": "string"},
    }
    error = describe_object(properties)
    about = "Of a live request: the close code of the connection."
    error["properties"]["close_code"] = {"type": "integer", "description": about}
    schema = describe_object({"error": error})
    return {
        "description": f"An error: {', '.join(codes)}.",
        "content": {"application/json": {"schema": schema}},
    } | _describe_headers(*names)


def _describe_headers(*names: str) -> dict[str, Any]:
    found = {
        name: {"description": _HEADERS[name], "schema": {"type": "string"}}
        for name in names
    }
    return {"headers": found} if found else {}
