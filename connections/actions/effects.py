"""Perform actions: post close requests, bans and node commands, and record them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.apps import apps
from django.utils import timezone

from connections.access.bans import impose
from connections.actions.registry import ActionRequest, Target
from connections.announcements import MAY_RETURN, announce, post_close_requests
from connections.audit import acting, record
from connections.models import (
    AccessToken,
    AuditEntry,
    Ban,
    CloseRequest,
    Connection,
    LiveDashboard,
    Node,
    NodeCommand,
)
from connections.models.alias import atomic
from connections.privacy import reduce_target


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The rows that an action wrote; nodes read them."""

    requests: Sequence[CloseRequest] = ()
    commands: Sequence[NodeCommand] = ()


def perform(request: ActionRequest) -> Outcome:
    """
    Perform an action and write the audit log, in one transaction.

    Raises:
        ValidationError: a target is no existing user, or no valid address.
    """
    with acting(request.via, request.author, **request.facts), atomic():
        outcome = _PERFORM[request.action.name](request)
        if apps.is_installed("django.contrib.admin"):
            _record(request)
    return outcome


def _end(request: ActionRequest) -> Outcome:
    requests = [
        CloseRequest(
            target=request.target,
            value=value,
            reason=MAY_RETURN if request.may_return else "kicked",
            author=request.author,
            note=request.reason,
            spread_seconds=request.spread_seconds,
        )
        for value in request.values
    ]
    post_close_requests(*requests)
    return Outcome(requests=_reread(request, requests))


def _ban(request: ActionRequest) -> Outcome:
    until = None
    if request.ban_seconds is not None:
        until = timezone.now() + timedelta(seconds=request.ban_seconds)
    for value in request.values:
        impose(
            Ban(
                target=request.target,
                value=value,
                reason=request.reason,
                author=request.author,
                until=until,
            )
        )
    return Outcome(requests=_reread(request, request.values))


def _revoke(request: ActionRequest) -> Outcome:
    AccessToken.objects.filter(pk__in=request.values).revoke()
    requests = [
        CloseRequest(
            target=Target.TOKEN,
            value=value,
            reason="revoked",
            author=request.author,
            note=request.reason,
        )
        for value in request.values
    ]
    post_close_requests(*requests)
    return Outcome(requests=_reread(request, requests))


def _post_commands(request: ActionRequest) -> Outcome:
    commands = [
        NodeCommand.objects.create(
            kind=request.action.name,
            target=request.target,
            value=value,
            text=request.text,
            author=request.author,
        )
        for value in request.values
    ]
    record(
        *(
            AuditEntry(
                action=request.action.name,
                target=request.target,
                value=value,
                reason=request.reason,
                facts={"text": request.text} if request.text else {},
            )
            for value in request.values
        )
    )
    announce()
    return Outcome(commands=commands)


def _reread(request: ActionRequest, posted: Sequence[Any]) -> list[CloseRequest]:
    """Return the requests just written, with their keys and times."""
    own = CloseRequest.objects.filter(author=request.author, target=request.target)
    return list(own.order_by("-id")[: len(posted)])


_PERFORM: Mapping[str, Callable[[ActionRequest], Outcome]] = {
    "end": _end,
    "end-all": _end,
    "ban": _ban,
    "revoke": _revoke,
    "notice": _post_commands,
    "drain": _post_commands,
    "serve": _post_commands,
}

_LOGGED_MODELS: Mapping[str, type[Any]] = {
    Target.CONNECTION: Connection,
    Target.NODE: Node,
    Target.TOKEN: AccessToken,
}


def _record(request: ActionRequest) -> None:
    """Write the action to the log of Django admin."""
    from django.contrib.admin.models import CHANGE, LogEntry
    from django.contrib.contenttypes.models import ContentType

    model = _LOGGED_MODELS.get(request.target, LiveDashboard)
    content_type = ContentType.objects.get_for_model(model)
    message = f"{request.action.label}: {request.reason or request.text}"
    if request.may_return:
        message += " (may return)"
    if request.spread_seconds:
        message += f" (within {request.spread_seconds:g} s)"
    LogEntry.objects.bulk_create(
        LogEntry(
            user_id=request.user.pk,
            content_type=content_type,
            # Only objects with an admin page are linked.
            object_id=value if model is not LiveDashboard else None,
            object_repr=_name_target(request.target, value),
            action_flag=CHANGE,
            change_message=message,
        )
        for value in request.values
    )


def _name_target(target: str, value: str) -> str:
    return f"{target} {reduce_target(target, value)}".strip()[:200]
