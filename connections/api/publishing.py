"""Publish a message to the clients of a group."""

import re
from fnmatch import fnmatchcase
from typing import Any

from asgiref.sync import async_to_sync
from channels.exceptions import InvalidChannelLayerError

from connections.api.errors import ApiError, forbidden, unavailable
from connections.api.kinds import Anything, Line
from connections.api.operations import Call, Operation, describe_object
from connections.api.parameters import Parameter
from connections.audit import acting, name_author, record
from connections.config.loader import get_config
from connections.layers.broadcast import broadcast
from connections.models import AuditEntry

_GROUP = re.compile(r"[A-Za-z0-9._-]{1,99}")
"""The names that Channels allows."""


def _publish(call: Call) -> dict[str, Any]:
    group, content = call.body["group"], call.body["content"]
    if not _GROUP.fullmatch(group):
        message = (
            "group is not the name of a group: letters, digits, hyphens, underscores"
            " and periods, fewer than 100."
        )
        raise ApiError(400, "invalid_field", message)
    patterns = get_config().api.publish_groups
    if not any(fnmatchcase(group, pattern) for pattern in patterns):
        message = (
            f"The configuration permits publishing to {', '.join(patterns)} only"
            if patterns
            else "The configuration permits publishing to no group"
        )
        raise forbidden("group_not_allowed", f"{message} (api.publish_groups).")
    # Before it is sent, because an audit stream may miss nothing that was.
    with acting(AuditEntry.Via.API, name_author(call.user), **call.facts):
        record(
            AuditEntry(
                action="publish",
                target="group",
                value=group,
                reason=call.body["reason"] or "",
            )
        )
    try:
        async_to_sync(broadcast)(group, content)
    except InvalidChannelLayerError as exc:
        raise unavailable(f"There is no channel layer with groups: {exc}.") from exc
    return {"group": group}


PUBLISH = Operation(
    name="publish",
    method="POST",
    path="publish",
    scope="api:publish",
    permissions=("connections.publish_to_group",),
    about="Sends a message to the clients of all members of a group, as broadcast()"
    " does. The group must match `api.publish_groups`.",
    is_action=True,
    status=202,
    body=(
        Parameter(
            name="group",
            kind=Line(most=99),
            about="The name of the group.",
            is_required=True,
        ),
        Parameter(
            name="content",
            kind=Anything(),
            about="A text is sent as it is, anything else as JSON.",
            is_required=True,
        ),
        Parameter(
            name="reason",
            kind=Line(),
            about="Why, for the audit stream, which does not hold the content.",
        ),
    ),
    run=_publish,
    answer=lambda: describe_object({"group": {"type": "string"}}),
)
