"""
The operations of the API: each is a method and a path, and what it needs.

The views route by this table, and the OpenAPI document describes it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.http import HttpRequest

from connections.api.parameters import Parameter
from connections.api.resources import Resource, list_added
from connections.api.tables import RESOURCES
from connections.credentials.identity import Credential


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request for an operation, with its checked values."""

    request: HttpRequest
    credential: Credential
    key: str = ""
    """The id in the path, if the operation has one."""

    query: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)

    @property
    def user(self) -> Any:
        """The user of the token."""
        return self.credential.user

    def may(self, permission: str) -> bool:
        """Return True if the user has a permission; not every model has them."""
        has_permission = getattr(self.user, "has_perm", None)
        return has_permission is not None and bool(has_permission(permission))

    @property
    def facts(self) -> dict[str, Any]:
        """What the audit stream records of the token, beside the name of its user."""
        return {"token": self.credential.token_id}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path."""

    name: str
    method: str
    path: str
    """The path below /api/v1/, with {id} where a key stands."""

    scope: str
    permissions: tuple[str, ...]
    """The user needs one of them; `run` checks which, where there are several."""

    about: str
    run: Callable[[Call], dict[str, Any]]
    """Reads or acts, in a thread; returns the answer, or raises ApiError."""

    answer: Callable[[], dict[str, Any]]
    """Returns the JSON Schema of the answer."""

    status: int = 200
    query: tuple[Parameter, ...] = ()
    body: tuple[Parameter, ...] = ()
    is_action: bool = False
    """Actions are refused in read-only mode."""


def describe_item(resource: Resource, has_details: bool = True) -> dict[str, Any]:
    """Return the JSON Schema of an item of a resource."""
    columns = resource.list_columns(has_details)
    return describe_object({name: one.schema for name, one in columns.items()})


def describe_object(properties: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the JSON Schema of an object that has all of its properties."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def read_resource(resource: Resource) -> Iterator[Operation]:
    """Yield the operations that read the list and one item of a resource."""
    yield Operation(
        name=f"list_{resource.name}",
        method="GET",
        path=resource.name,
        scope="api:read",
        permissions=(resource.permission,),
        about=resource.about,
        query=resource.list_parameters(),
        run=lambda call: resource.read_page(call.query),
        answer=lambda: describe_object(
            {
                "items": {"type": "array", "items": describe_item(resource, False)},
                "next_cursor": {
                    "type": ["string", "null"],
                    "description": "The cursor of the next page; null on the last one.",
                },
            }
        ),
    )
    yield Operation(
        name=f"read_{resource.name}",
        method="GET",
        path=f"{resource.name}/{{id}}",
        scope="api:read",
        permissions=(resource.permission,),
        about=f"One {resource.item}.",
        run=lambda call: resource.read_item(call.key),
        answer=lambda: describe_item(resource),
    )


def list_reads() -> Iterator[Operation]:
    """Yield the operations that read resources, those of other apps included."""
    for resource in (*RESOURCES, *list_added()):
        yield from read_resource(resource)
