"""The OpenAPI document of the API, made from the table that routes it."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from connections.api.kinds import describe_kind
from connections.api.operations import Operation, describe_object
from connections.api.parameters import Parameter
from connections.api.routes import DOCUMENT, list_operations
from connections.credentials.identity import API_SCOPES
from connections.version import VERSION

_BEARER = "accessToken"
ERROR = describe_object(
    {
        "error": describe_object(
            {"code": {"type": "string"}, "message": {"type": "string"}}
        )
    }
)


@lru_cache(4)
def describe_api(root_url: str) -> dict[str, Any]:
    """Return the document; paths are below the root."""
    paths: dict[str, dict[str, Any]] = {}
    for one in list_operations():
        paths.setdefault(f"/{one.path}", {})[one.method.lower()] = _describe(one)
    scopes = "\n".join(f"* `{name}`: {about}" for name, about in API_SCOPES.items())
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Operators' API",
            "version": VERSION,
            "description": "Reads and controls WebSocket connections. An access token "
            "needs a scope for each operation, and its user the permission.\n\n"
            f"{scopes}",
        },
        "servers": [{"url": root_url}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": {"Error": ERROR},
            "securitySchemes": {_BEARER: {"type": "http", "scheme": "bearer"}},
        },
    }


def describe_needs(operation: Operation) -> str:
    """Return the scope and the permissions that an operation needs."""
    if not operation.scope:
        return ""
    permissions = " or ".join(f"`{one}`" for one in operation.permissions)
    return f"Scope `{operation.scope}`, permission {permissions}."


def _describe(operation: Operation) -> dict[str, Any]:
    """Return the object of one operation."""
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.name.replace("_", " ").capitalize(),
        "description": f"{operation.about}\n\n{describe_needs(operation)}".strip(),
        "parameters": _describe_parameters(operation),
        "responses": {
            str(operation.status): describe_content("Done.", operation.answer()),
            "default": describe_content(
                "An error.", {"$ref": "#/components/schemas/Error"}
            ),
        },
    }
    if operation.body:
        content = describe_content("", describe_body(operation.body))["content"]
        described["requestBody"] = {"required": True, "content": content}
    if operation is not DOCUMENT:
        described["security"] = [{_BEARER: [operation.scope]}]
    return described


def _describe_parameters(operation: Operation) -> list[dict[str, Any]]:
    found = describe_query(operation.query)
    if "{id}" in operation.path:
        schema = {"type": "string"}
        found.append({"name": "id", "in": "path", "required": True, "schema": schema})
    return found


def describe_query(parameters: Sequence[Parameter]) -> list[dict[str, Any]]:
    """Return the parameters of a query string."""
    return [
        {
            "name": one.name,
            "in": "query",
            "required": one.is_required,
            "description": one.about,
            "schema": _describe_value(one),
        }
        for one in parameters
    ]


def _describe_value(parameter: Parameter) -> dict[str, Any]:
    schema = describe_kind(parameter.kind)
    if parameter.default is not None:
        return {**schema, "default": parameter.default}
    return schema


def describe_body(parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Return the JSON Schema of a body."""
    return {
        "type": "object",
        "properties": {
            one.name: {**_describe_value(one), "description": one.about}
            for one in parameters
        },
        "required": [one.name for one in parameters if one.is_required],
        "additionalProperties": False,
    }


def describe_content(about: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the object of an answer, or of a body, in JSON."""
    return {"description": about, "content": {"application/json": {"schema": schema}}}
