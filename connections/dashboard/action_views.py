"""Views of an action: one shows its effect beforehand, one its result."""

import re
from datetime import timedelta
from typing import Any

from django.core.exceptions import PermissionDenied, ValidationError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils.http import urlencode

from connections.actions.effects import Outcome, perform
from connections.actions.registry import (
    ACTIONS,
    MOST_VALUES,
    Action,
    ActionRequest,
    find_allowed,
)
from connections.audit import name_author
from connections.config.loader import get_config
from connections.dashboard.action_forms import ActionForm
from connections.dashboard.actions import find_targets
from connections.dashboard.cache import SnapshotCache
from connections.dashboard.map import list_names, name_node
from connections.dashboard.sites import make_page_url
from connections.dashboard.snapshot import Snapshot
from connections.models import CloseRequest, Node, NodeCommand
from connections.net.addresses import name_banned_network
from connections.storage.text import is_storable
from connections.units import count_of, show_moment

_TEMPLATES = "admin/connections/livedashboard"
_WAIT = timedelta(seconds=10)
"""The result page stops waiting so long after an action's end."""

_ROW_ID = re.compile(r"[0-9]{1,18}")
_MOST_NAMED = 10


def show_action(
    request: HttpRequest, name: str, shared: SnapshotCache, context: dict[str, Any]
) -> HttpResponse:
    """Show the confirmation; on POST perform the action, redirect to its result."""
    action, target, values = _read(request, name)
    snapshot = shared.get_snapshot()
    form = ActionForm(action, request.POST if request.method == "POST" else None)
    try:
        targeted = find_targets(snapshot, target, values)
    except ValueError as exc:
        raise Http404(str(exc)) from exc
    if request.method == "POST" and form.is_valid():
        action_request = _make_request(
            action, target, values, request.user, form.cleaned_data
        )
        try:
            outcome = perform(action_request)
        except ValidationError as exc:
            form.add_error(None, exc.messages)
        else:
            return HttpResponseRedirect(
                _make_result_url(action_request, outcome, len(targeted))
            )
    clients = {one.client_id for _, one in targeted}
    return TemplateResponse(
        request,
        f"{_TEMPLATES}/action.html",
        {
            **context,
            "title": action.label,
            "action": action,
            "form": form,
            "target": target,
            "values": values,
            "target_name": _name(snapshot, target, values),
            "count": len(targeted),
            "node_count": len({node_id for node_id, _ in targeted}),
            "clients": sorted(clients)[:_MOST_NAMED],
            "more_clients": max(0, len(clients) - _MOST_NAMED),
            "is_last_node": action.name == "drain" and _is_last(snapshot, values),
        },
    )


def show_result(
    request: HttpRequest, shared: SnapshotCache, context: dict[str, Any]
) -> HttpResponse:
    """Show the effect of an action so far, and the targets it did not reach."""
    action = ACTIONS.get(request.GET.get("action", ""))
    given = request.GET.getlist("key")[:MOST_VALUES]
    keys = [key for key in given if _ROW_ID.fullmatch(key)]
    if action is None or not keys:
        raise Http404("no such action")
    snapshot = shared.get_snapshot()
    author = name_author(request.user)
    is_command = action.name in NodeCommand.Kind.values
    kind: Any = NodeCommand if is_command else CloseRequest
    rows = list(kind.objects.filter(pk__in=keys, author=author))
    if not rows:
        raise Http404("no such action")
    if is_command:
        result = describe_commands(snapshot, rows)
    else:
        asked = request.GET.get("asked", "")
        count = int(asked) if asked.isdecimal() and len(asked) < 9 else 0
        result = describe_ends(snapshot, rows, count)
    return TemplateResponse(
        request,
        f"{_TEMPLATES}/result.html",
        {
            **context,
            "title": action.label,
            "action": action,
            "as_of": show_moment(snapshot.taken_at),
            **result,
        },
    )


def describe_ends(
    snapshot: Snapshot, requests: list[CloseRequest], asked: int
) -> dict[str, Any]:
    """Return how many targeted connections have ended, and the open ones by node."""
    left = [
        (node_id, one)
        for request in requests
        for node_id, one in find_targets(
            snapshot, request.target, [request.value], request.created_at
        )
    ]
    spread_seconds = max(one.spread_seconds for one in requests)
    created_at = max(one.created_at for one in requests)
    due = created_at + timedelta(seconds=spread_seconds)
    is_over = not left or snapshot.taken_at > due + _WAIT
    names = list_names(snapshot)
    by_node = {
        names.get(node_id, node_id): sum(other == node_id for other, _ in left)
        for node_id, _ in left
    }
    return {
        "ended": max(0, asked - len(left)),
        "asked": max(asked, len(left)),
        "left": by_node,
        "is_over": is_over,
        "spread_seconds": spread_seconds,
    }


def describe_commands(
    snapshot: Snapshot, commands: list[NodeCommand]
) -> dict[str, Any]:
    """Return how many nodes have applied commands, and which nodes are silent."""
    live = [node for node in snapshot.nodes if node.node_id in snapshot.seen]
    done = min(command.nodes for command in commands)
    created_at = max(one.created_at for one in commands)
    followed = [
        follow_command(snapshot, command)
        for command in commands
        if command.kind != NodeCommand.Kind.NOTICE
    ]
    wait = _WAIT
    if any(command.kind == NodeCommand.Kind.DRAIN for command in commands):
        wait += timedelta(seconds=get_config().drain.grace_seconds)
    is_complete = done >= len(live) and all(one["is_done"] for one in followed)
    return {
        "commands": commands,
        "nodes": len(live),
        "done": done,
        "reached": sum(command.reached for command in commands),
        "unreached": sum(command.unreached for command in commands),
        "silent": [
            {"name": name_node(node), "since": show_moment(node.beat_at)}
            for node in live
            if _is_silent(node)
        ],
        "followed": followed,
        "is_over": is_complete or snapshot.taken_at > created_at + wait,
    }


def follow_command(snapshot: Snapshot, command: NodeCommand) -> dict[str, Any]:
    """Return how far a node is with its drain, or its return to service."""
    node = next((one for one in snapshot.nodes if one.node_id == command.value), None)
    name = name_node(node) if node is not None else command.value[:8]
    later = NodeCommand.objects.filter(
        target=command.target,
        value=command.value,
        kind__in=(NodeCommand.Kind.DRAIN, NodeCommand.Kind.SERVE),
        pk__gt=command.pk,
    ).first()
    is_done, text = True, ""
    if node is None or node.node_id not in snapshot.seen:
        text = f"has ended: {node.state}" if node is not None else "has ended"
    elif later is not None:
        text = f"is {node.state}; {later.author} asked later: {later.kind}"
    elif command.kind == NodeCommand.Kind.SERVE:
        is_done = node.state == Node.State.SERVING
        text = "is now serving" if is_done else "is still draining"
    elif node.state == Node.State.DRAINING:
        left = len(snapshot.seen[node.node_id])
        is_done = not left
        text = f"is draining, {count_of(left, 'connection')} left"
        if is_done:
            text = "has drained: no connection is left, and it refuses new ones"
    else:
        is_done, text = False, "still accepts connections"
    return {"name": name, "text": text, "is_done": is_done}


def _read(request: HttpRequest, name: str) -> tuple[Action, str, tuple[str, ...]]:
    """Return the action and its targets, if the user may perform it."""
    action = ACTIONS.get(name)
    if action is None:
        raise Http404(f"no action {name:.20}")
    if name not in find_allowed(request.user):
        raise PermissionDenied
    source = request.POST if "target" in request.POST else request.GET
    target = source.get("target", "")
    values = tuple(dict.fromkeys(value[:255] for value in source.getlist("value")))
    if target not in action.targets:
        raise Http404(f"target is not one of {', '.join(action.targets)}")
    if target == CloseRequest.Target.ALL:
        values = ("",)
    if not values or ("" in values and target != CloseRequest.Target.ALL):
        raise Http404("value is missing")
    if not all(map(is_storable, values)):
        raise Http404("value holds a NUL or a lone surrogate")
    if target == CloseRequest.Target.TOKEN and not all(map(_ROW_ID.fullmatch, values)):
        raise Http404("value is not the number of a token")
    if len(values) > MOST_VALUES:
        raise Http404(f"more than {MOST_VALUES} at once")
    if name == "ban" and target == CloseRequest.Target.ADDRESS:
        # The page counts the connections that the ban ends.
        try:
            values = tuple(map(name_banned_network, values))
        except ValueError as exc:
            raise Http404(str(exc)) from exc
    return action, target, values


def _make_request(
    action: Action,
    target: str,
    values: tuple[str, ...],
    user: Any,
    cleaned: dict[str, Any],
) -> ActionRequest:
    ban_for = cleaned.get("ban_for", "")
    return ActionRequest(
        action=action,
        target=target,
        values=values,
        user=user,
        reason=cleaned.get("reason", ""),
        may_return=cleaned.get("may_return", False),
        spread_seconds=cleaned.get("spread_seconds", 0),
        ban_seconds=float(ban_for) if ban_for else None,
        text=cleaned.get("text", ""),
    )


def _make_result_url(
    action_request: ActionRequest, outcome: Outcome, count: int
) -> str:
    rows = [*outcome.requests, *outcome.commands]
    pairs: list[tuple[str, Any]] = [
        ("action", action_request.action.name),
        ("asked", count),
    ]
    pairs += [("key", one.pk) for one in rows]
    return f"{make_page_url('connections_live_result')}?{urlencode(pairs)}"


def _name(snapshot: Snapshot, target: str, values: tuple[str, ...]) -> str:
    """Return the targets of an action in words."""
    if target == CloseRequest.Target.ALL:
        return "everybody"
    if len(values) > 1:
        return f"{len(values)} {target}s"
    if target == CloseRequest.Target.NODE:
        return f"node {list_names(snapshot).get(values[0], values[0])}"
    return f"{target} {values[0]}"


def _is_last(snapshot: Snapshot, values: tuple[str, ...]) -> bool:
    """Return True if no other node is serving."""
    return not any(
        node.state == Node.State.SERVING and node.node_id not in values
        for node in snapshot.nodes
    )


def _is_silent(node: Any) -> bool:
    return bool(node.beat_age.total_seconds() > _WAIT.total_seconds() / 2)
