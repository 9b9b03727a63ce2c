"""Find the operation of a method and a path."""

import re
from functools import cache

from connections.api.actions import ACTIONS
from connections.api.errors import ApiError
from connections.api.operations import Operation, list_reads
from connections.api.usage import USAGE_NOW

DOCUMENT = Operation(
    name="read_openapi",
    method="GET",
    path="openapi.json",
    scope="",
    permissions=(),
    about="This document; it needs no token.",
    run=lambda call: {},
    answer=lambda: {"type": "object"},
)


@cache
def list_operations() -> tuple[Operation, ...]:
    """Return all operations; a path that is more exact comes first."""
    found = (DOCUMENT, USAGE_NOW, *list_reads(), *ACTIONS)
    return tuple(sorted(found, key=lambda one: ("{id}" in one.path, -len(one.path))))


def find_operation(method: str, rest: str) -> tuple[Operation, str]:
    """
    Return the operation of a method and a path, and the id in the path.

    Raises:
        ApiError: 404 for an unknown path, 405 for another method.
    """
    path = key = ""
    found: dict[str, Operation] = {}
    for one in list_operations():
        match = _compile(one.path).fullmatch(rest)
        if match is not None and one.path == (path or one.path):
            path, key = one.path, match.groupdict().get("id", "")
            found[one.method] = one
    if not found:
        message = f"There is nothing at {rest[:80]!r}; see openapi.json."
        raise ApiError(404, "not_found", message)
    if "GET" in found:
        found["HEAD"] = found["GET"]
    if method in found:
        return found[method], key
    allowed = ", ".join(sorted(found))
    message = f"{method[:20]} is not allowed here; allowed: {allowed}."
    raise ApiError(405, "method_not_allowed", message, {"Allow": allowed})


@cache
def _compile(path: str) -> re.Pattern[str]:
    """Return the pattern of a path; an id may hold slashes, as those of clients."""
    pattern = re.escape(path).replace(r"\{id\}", "(?P<id>.+)")
    end = "" if path.endswith("{id}") else "/?"
    return re.compile(pattern + end, re.DOTALL)
