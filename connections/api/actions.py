"""The actions of the API, over those of the dashboard."""

from functools import partial
from typing import Any

from django.core.exceptions import ValidationError

from connections.access.bans import lift
from connections.actions.effects import perform
from connections.actions.registry import ACTIONS as ACTIONS_OF_STAFF
from connections.actions.registry import ActionRequest, Target
from connections.announcements import MAY_RETURN, MOST_SPREAD_SECONDS
from connections.api.errors import ApiError, forbidden, not_found
from connections.api.kinds import Line
from connections.api.operations import Call, Operation, describe_item, describe_object
from connections.api.parameters import Parameter
from connections.api.publishing import PUBLISH
from connections.api.tables import BANS, find_user
from connections.api.tokens import TOKEN_OPERATIONS
from connections.audit import acting, name_author
from connections.close_codes import CLOSE_REASONS
from connections.config.kinds import Choice, Flag, Number
from connections.models import AuditEntry, Ban, Connection, Node
from connections.models.node import LIVE_STATES

_TEXT = {"type": "string"}
_COUNT = {"type": "integer"}


def _choose(action: str, *more: str) -> Parameter:
    """Return the parameter of an action's target."""
    words = (*more, *map(str, ACTIONS_OF_STAFF[action].targets))
    return Parameter(
        name="target",
        kind=Choice(words),
        about="The kind of what is meant.",
        is_required=True,
    )


_VALUE = Parameter(
    name="value",
    kind=Line(),
    about="The id of a connection, client or node, the key or login name of a user, or"
    " an address or network.",
    is_required=True,
)
REASON = Parameter(
    name="reason",
    kind=Line(),
    about="Why, for the audit stream; clients do not see it.",
    is_required=True,
)


def _make_request(call: Call, name: str, target: str, value: str) -> ActionRequest:
    """Return the request for an action of staff, from the values of a body."""
    body = call.body
    return ActionRequest(
        action=ACTIONS_OF_STAFF[name],
        target=target,
        values=(value,),
        user=call.user,
        reason=body.get("reason") or "",
        may_return=body.get("may_return", False),
        spread_seconds=body.get("spread_seconds", 0),
        ban_seconds=body.get("seconds"),
        text=body.get("text", ""),
        via=AuditEntry.Via.API,
        facts=call.facts,
    )


def _find_value(target: str, value: str) -> str:
    """
    Return the value of a target as records hold it.

    Raises:
        ApiError: 404, no such connection, user or node is known; 400, the text names
            more than one user.
    """
    if target == Target.USER:
        return find_user(value)
    if target == Target.CONNECTION:
        row = Connection.objects.find(value)
        if row is None:
            raise not_found("recorded connection or error", value)
        return row.connection_id
    if target == Target.NODE and not Node.objects.filter(pk=value).exists():
        raise not_found("node", value)
    return value


_OPEN_COLUMNS = {
    Target.CONNECTION: "connection_id",
    Target.CLIENT: "client_id",
    Target.USER: "user_id",
    Target.NODE: "node_id",
}


def _kick(call: Call) -> dict[str, Any]:
    target = call.body["target"]
    name = "end" if target == Target.CONNECTION else "end-all"
    _require(call, ACTIONS_OF_STAFF[name].permission)
    value = _find_value(target, call.body["value"])
    named = Connection.objects.open().filter(**{_OPEN_COLUMNS[target]: value})
    count = named.count()
    perform(_make_request(call, name, target, value))
    reason = CLOSE_REASONS[MAY_RETURN if call.body["may_return"] else "kicked"]
    return {
        "target": target,
        "value": value,
        "open_connections": count,
        "close_code": reason.code,
        "close_reason": reason.reason,
    }


def _require(call: Call, permission: str) -> None:
    if not call.may(permission):
        message = f"The user of the access token has no permission {permission}."
        raise forbidden("missing_permission", message)


_KICK = Operation(
    name="kick",
    method="POST",
    path="kick",
    scope="api:kick",
    permissions=("connections.end_connection", "connections.end_all"),
    about="Ends a connection (needs end_connection), or all connections of a client, a"
    " user or a node (needs end_all). The nodes end them within a beat.",
    is_action=True,
    status=202,
    body=(
        _choose("end-all", Target.CONNECTION),
        _VALUE,
        REASON,
        Parameter(
            name="may_return",
            kind=Flag(),
            default=False,
            about="Close with 4202, after which a client connects again at once;"
            " otherwise 4009.",
        ),
        Parameter(
            name="spread_seconds",
            kind=Number(0, MOST_SPREAD_SECONDS),
            default=0,
            about="Seconds over which the connections are closed.",
        ),
    ),
    run=_kick,
    answer=lambda: describe_object(
        {
            "target": _TEXT,
            "value": _TEXT,
            "open_connections": {**_COUNT, "description": "Recorded before the end."},
            "close_code": _COUNT,
            "close_reason": _TEXT,
        }
    ),
)


def _ban(call: Call) -> dict[str, Any]:
    target, value = call.body["target"], call.body["value"]
    if target == Target.USER:
        value = find_user(value)
    ban = Ban(target=target, value=value)
    try:
        ban.normalise()
        perform(_make_request(call, "ban", target, value))
    except ValidationError as exc:
        message = f"value: {'; '.join(exc.messages)}."
        raise ApiError(400, "invalid_field", message) from exc
    saved = Ban.objects.get(target=target, value=ban.value)
    return BANS.read_item(str(saved.pk))


_BAN = Operation(
    name="ban",
    method="POST",
    path="bans",
    scope="api:ban",
    permissions=("connections.add_ban",),
    about="Bans a client, user, address or network, and ends its connections (4003). A"
    " ban of the same target and value takes the new reason and end.",
    is_action=True,
    status=201,
    body=(
        _choose("ban"),
        _VALUE,
        REASON,
        Parameter(
            name="seconds",
            kind=Number(0.001, 1e9),
            about="How long the ban lasts; without it until it is lifted.",
        ),
    ),
    run=_ban,
    answer=lambda: describe_item(BANS),
)


def _lift(call: Call) -> dict[str, Any]:
    content = BANS.read_item(call.key)
    ban = Ban.objects.filter(pk=call.key).first()
    if ban is None:
        raise not_found("ban", call.key)
    with acting(AuditEntry.Via.API, **call.facts):
        lift(ban, name_author(call.user))
    return content


_LIFT = Operation(
    name="lift_ban",
    method="DELETE",
    path="bans/{id}",
    scope="api:ban",
    permissions=("connections.delete_ban",),
    about="Lifts a ban; the answer is the ban as it was.",
    is_action=True,
    run=_lift,
    answer=lambda: describe_item(BANS),
)


def _notify(call: Call) -> dict[str, Any]:
    target, value = call.body["target"], call.body["value"]
    if (target == Target.ALL) != (value is None):
        message = "value is given for every target but all."
        raise ApiError(400, "invalid_field", message)
    value = "" if value is None else _find_value(target, value)
    perform(_make_request(call, "notice", target, value))
    return {"target": target, "value": value}


_NOTICE = Operation(
    name="send_notice",
    method="POST",
    path="notice",
    scope="api:notice",
    permissions=("connections.send_notice",),
    about='Sends {"type": "notice", "text": …} to the clients of JSON consumers.',
    is_action=True,
    status=202,
    body=(
        _choose("notice"),
        Parameter(name="value", kind=_VALUE.kind, about=f"{_VALUE.about} All: none."),
        Parameter(
            name="text",
            kind=Line(most=500),
            about="The text that clients get.",
            is_required=True,
        ),
        Parameter(name="reason", kind=REASON.kind, about=REASON.about),
    ),
    run=_notify,
    answer=lambda: describe_object({"target": _TEXT, "value": _TEXT}),
)


def _give_command(name: str, call: Call) -> dict[str, Any]:
    node = Node.objects.filter(pk=_find_value(Target.NODE, call.key)).get()
    if node.state not in LIVE_STATES:
        message = f"The node has ended: it is {node.state}."
        raise ApiError(409, "node_has_ended", message)
    perform(_make_request(call, name, Target.NODE, node.node_id))
    return {"node": node.node_id, "state": node.state}


def _make_command(name: str, about: str) -> Operation:
    """Return the operation that gives a node a command."""
    return Operation(
        name=f"{name}_node",
        method="POST",
        path=f"nodes/{{id}}/{name}",
        scope="api:drain",
        permissions=(ACTIONS_OF_STAFF[name].permission,),
        about=f"{about} The answer has the state from before; the node follows within"
        " a beat.",
        is_action=True,
        status=202,
        body=(REASON,),
        run=partial(_give_command, name),
        answer=lambda: describe_object({"node": _TEXT, "state": _TEXT}),
    )


ACTIONS = (
    _KICK,
    _BAN,
    _LIFT,
    _NOTICE,
    _make_command("drain", "Makes a node refuse connections and hand over its own."),
    _make_command("serve", "Returns a draining node to service."),
    *TOKEN_OPERATIONS,
    PUBLISH,
)
