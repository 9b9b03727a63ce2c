"""Describe one operation of the HTTP API of sessions, as OpenAPI does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from connections.api.openapi import describe_body
from connections.api.parameters import Parameter
from connections.close_codes import CLOSE_REASONS
from connections.http_connection import find_status
from sessions_history.http import schemas

Errors = dict[int, tuple[str, ...]]
"""The codes of errors by their status."""

_LEAST_CLOSE_CODE = 1008
"""With lower codes no request is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer that is no error."""

    about: str
    content: Mapping[str, schemas.Schema] = field(default_factory=dict)
    """The JSON Schemas of the body by its type; without one there is no body."""

    headers: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path below /api/sessions."""

    name: str
    method: str
    path: str
    about: str
    answers: Mapping[int, Answer]
    errors: Errors = field(default_factory=dict)
    """Its own errors, beside those of every request."""

    query: Sequence[Mapping[str, Any]] = ()
    request_headers: Mapping[str, str] = field(default_factory=dict)
    body: schemas.Schema | None = None
    is_body_required: bool = True


def merge(*several: Mapping[int, tuple[str, ...]]) -> Errors:
    """Return the errors of several requests."""
    found: dict[int, list[str]] = {}
    for errors in several:
        for status, codes in errors.items():
            found.setdefault(status, []).extend(codes)
    return {status: tuple(dict.fromkeys(found[status])) for status in sorted(found)}


EVERY: Errors = {
    400: ("disallowed_host",),
    401: ("unauthenticated",),
    403: ("forbidden", "banned", "missing_scope"),
    429: ("rate_limited",),
    500: ("failed",),
    503: ("unavailable",),
}
"""The errors of every request."""

CHANGE: Errors = {403: ("csrf",)}
QUERY: Errors = {400: ("unknown_parameter", "repeated_parameter")}
PAGE: Errors = merge(QUERY, {400: ("invalid_parameter", "invalid_cursor")})
RAW: Errors = {400: ("invalid_json", "incomplete"), 413: ("body_too_large",)}
BODY: Errors = merge(
    CHANGE,
    QUERY,
    RAW,
    {400: ("unknown_field", "missing_field", "invalid_field"), 415: ("not_json",)},
)
FOUND: Errors = {404: ("not_found",)}
OWNER: Errors = {403: ("not_owner",), 404: ("not_found",)}
FULL: Errors = {409: ("storage_full", "sessions_full"), 500: ("internal",)}


def list_live_errors() -> Errors:
    """Return the close codes that end a live request before its answer."""
    found: list[Errors] = [
        {find_status(one.code): (one.reason,)}
        for one in CLOSE_REASONS.values()
        if one.code >= _LEAST_CLOSE_CODE
    ]
    return merge(*found)


NO_CONTENT = {204: Answer(about="Done.")}
_NOT_MODIFIED = {304: Answer(about="Nothing has changed.", headers=("ETag",))}


def show(schema: schemas.Schema, about: str = "Done.") -> Answer:
    """Return an answer with a JSON body."""
    return Answer(about=about, content={"application/json": schema})


def read(schema: schemas.Schema) -> dict[int, Answer]:
    """Return the answers of a GET with an ETag."""
    content = {"application/json": schema}
    return {200: Answer(about="Done.", content=content, headers=("ETag",))} | (
        _NOT_MODIFIED
    )


def describe_texts(**texts: str) -> tuple[dict[str, Any], ...]:
    """Return the optional parameters of a query by their names."""
    return tuple(
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": about,
            "schema": {"type": "string"},
        }
        for name, about in texts.items()
    )


def take(*parameters: Parameter) -> schemas.Schema:
    """Return the schema of a body with these parameters."""
    described = describe_body(parameters)
    for one in parameters:
        if not one.is_required:
            value = described["properties"][one.name]
            value["type"] = [value["type"], "null"]
    return described
