"""Show and change the members of a session over HTTP, and invite and join them."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from django.http import HttpResponse

from connections.api.errors import ApiError, forbidden, not_found
from connections.api.kinds import Line
from connections.api.parameters import Parameter
from connections.api.resources import is_key
from connections.config.kinds import Choice, Flag, Number
from connections.models.user_key import get_users
from connections.presence.rooms import name_member
from connections.units import as_utc
from sessions_history import members
from sessions_history.exceptions import (
    InvitationInvalid,
    MemberNotFound,
    OwnerStays,
    SessionNotFound,
    SessionsError,
    TooManyMembers,
    TooManySessions,
)
from sessions_history.http import rows
from sessions_history.http.calls import Call, answer, make_view
from sessions_history.member_models import Role, SessionInvitation, SessionMember
from sessions_history.models import Session

_MOST_SECONDS = 31_536_000
_MOST_LISTED = 200
ROLE = Parameter(
    name="role",
    kind=Choice(tuple(map(str, members.GIVEN_ROLES))),
    about="The role of who redeems the invitation.",
    is_required=True,
)
NEW_ROLE = Parameter(
    name="role",
    kind=Choice((*map(str, members.GIVEN_ROLES), Role.OWNER.value)),
    about="The role; owner hands the session over.",
    is_required=True,
)
LIFETIME = Parameter(
    name="lifetime_seconds",
    kind=Number(1, _MOST_SECONDS),
    about="How long the invitation is valid; sessions.invitation_seconds without it.",
)
SINGLE_USE = Parameter(
    name="single_use",
    kind=Flag(),
    default=True,
    about="Whether it makes one user a member, or any number.",
)
TOKEN = Parameter(
    name="token",
    kind=Line(most=1000),
    about="The token of an invitation.",
    is_required=True,
)

_ERRORS: dict[type[SessionsError], tuple[int, str, str]] = {
    SessionNotFound: (404, "not_found", "The session does not exist any more."),
    MemberNotFound: (404, "not_found", "The session has no such member."),
    OwnerStays: (409, "owner_stays", "The owner keeps the role until it is handed on."),
    TooManyMembers: (
        409,
        "too_many_members",
        f"The session has {members.MOST_MEMBERS} members and open invitations.",
    ),
    TooManySessions: (
        409,
        "sessions_full",
        "The member has as many sessions as allowed"
        " (sessions.max_sessions_per_client).",
    ),
}


def _explain(exc: SessionsError) -> ApiError:
    """Return the answer for an error of sessions_history.members."""
    if isinstance(exc, InvitationInvalid):
        is_known = exc.reason != "unknown"
        message = f"The invitation is {exc.reason}."
        return ApiError(410 if is_known else 404, f"invitation_{exc.reason}", message)
    return ApiError(*_ERRORS[type(exc)])


async def _run(call: Call, work: Callable[..., Any], *args: Any) -> Any:
    """
    Run work that changes members, in a thread of the database.

    The session of the path is locked before: what the work reads of roles stays.

    Raises:
        ApiError: it raised an error of a session.
    """
    run = partial(work, call, *args)
    if call.session_id:
        run = partial(members.run_locked, call.session_id, run)
    try:
        return await call.database.write_urgently(run)
    except SessionsError as exc:
        raise _explain(exc) from exc


def _require_role(call: Call) -> Role:
    """
    Return the role of the client in the session of the path.

    Raises:
        ApiError: 404, it has none.
    """
    return rows.require_role(call.client_id, call.user_id, call.session_id)


def _require_owner(call: Call) -> None:
    """
    Check that the client owns the session of the path.

    Raises:
        ApiError: 404 without a role in it, 403 with another one.
    """
    _require_role(call)
    rows.find_owner_id(call.client_id, call.user_id, call.session_id)


def _find_user(call: Call) -> Any:
    """
    Return the user in the path.

    Raises:
        ApiError: 404, there is no member with this key.
    """
    found = SessionMember.objects.filter(session=call.session_id)
    for user_id in found.values_list("user_id", flat=True):
        if str(user_id) == call.key:
            user = get_users().filter(pk=user_id).first()
            if user is not None:
                return user
    raise not_found("member", call.key)


def _read_members(call: Call) -> str:
    role = _require_role(call)
    owners = Session.objects.filter(pk=call.session_id)
    row = owners.values_list("client_id", "user_id").first()
    if row is None:
        raise not_found("session", call.session_id)
    client_id, user_id = row
    found = SessionMember.objects.filter(session=call.session_id).order_by("pk")
    items: list[dict[str, Any]] = [
        {
            "author": f"user:{one.user_id}",
            "user": str(one.user_id),
            "role": one.role,
            "since": as_utc(one.created_at).isoformat(),
        }
        for one in found
    ]
    if not any(one["role"] == Role.OWNER for one in items):
        # Only an owner that the session was handed over to has a row.
        author = name_member(client_id) if user_id is None else f"user:{user_id}"
        owner: dict[str, Any] = {"author": author, "role": Role.OWNER.value}
        items.insert(0, {**owner, "user": None, "since": None})
    return json.dumps({"role": role, "items": items})


def _change(call: Call, role: str) -> None:
    _require_owner(call)
    user = _find_user(call)
    if role == Role.OWNER:
        members.hand_over(call.session_id, user)
    else:
        members.change_role(call.session_id, user, role)


def _remove(call: Call) -> None:
    is_own = call.key == str(call.user_id)
    if is_own:
        _require_role(call)
    else:
        _require_owner(call)
    members.remove(call.session_id, _find_user(call))


def _describe(invitation: SessionInvitation) -> dict[str, Any]:
    def name(moment: Any) -> str | None:
        return as_utc(moment).isoformat() if moment is not None else None

    return {
        "id": invitation.pk,
        "role": invitation.role,
        "single_use": invitation.is_single_use,
        "created_at": name(invitation.created_at),
        "expires_at": name(invitation.expires_at),
        "used_at": name(invitation.used_at),
        "revoked_at": name(invitation.revoked_at),
    }


def _read_invitations(call: Call) -> str:
    _require_owner(call)
    found = SessionInvitation.objects.filter(session=call.session_id)
    return json.dumps({"items": [_describe(one) for one in found[:_MOST_LISTED]]})


def _invite(call: Call, body: dict[str, Any]) -> dict[str, Any]:
    _require_owner(call)
    invitation, token = members.invite(
        call.session_id,
        body["role"],
        author=call.user,
        lifetime_seconds=body["lifetime_seconds"],
        is_single_use=body["single_use"],
    )
    # By the manager: Django would ask the router, which may name a replica.
    invitation.refresh_from_db(from_queryset=SessionInvitation.objects.all())
    return {**_describe(invitation), "token": token}


def _revoke(call: Call) -> None:
    _require_owner(call)
    if not is_key(call.key):
        raise InvitationInvalid("unknown")
    members.revoke(call.session_id, call.key)


def _redeem(call: Call, token: str) -> dict[str, Any]:
    joined = members.redeem(token, call.user)
    return {"session": joined.session_id, "role": joined.role}


async def _serve_members(call: Call) -> HttpResponse:
    call.read_query(())
    return answer(call, await call.database.read(_read_members, call))


async def _serve_change(call: Call) -> HttpResponse:
    await _run(call, _change, call.read_body(NEW_ROLE)["role"])
    return HttpResponse(status=204)


async def _serve_removal(call: Call) -> HttpResponse:
    call.read_query(())
    await _run(call, _remove)
    return HttpResponse(status=204)


async def _serve_invitations(call: Call) -> HttpResponse:
    call.read_query(())
    return answer(call, await call.database.read(_read_invitations, call))


async def _serve_invite(call: Call) -> HttpResponse:
    body = call.read_body(ROLE, LIFETIME, SINGLE_USE)
    made = await _run(call, _invite, body)
    return HttpResponse(json.dumps(made), status=201, content_type="application/json")


async def _serve_revoke(call: Call) -> HttpResponse:
    call.read_query(())
    await _run(call, _revoke)
    return HttpResponse(status=204)


async def _serve_redeem(call: Call) -> HttpResponse:
    body = call.read_body(TOKEN)
    if call.user is None:
        message = "A client without a user cannot be a member of a session."
        raise forbidden("no_user", message)
    joined = await _run(call, _redeem, body["token"])
    return HttpResponse(json.dumps(joined), content_type="application/json")


session_members = make_view(GET=_serve_members)
session_member = make_view(PATCH=_serve_change, DELETE=_serve_removal)
invitations = make_view(GET=_serve_invitations, POST=_serve_invite)
invitation = make_view(DELETE=_serve_revoke)
redeemed = make_view(POST=_serve_redeem)
