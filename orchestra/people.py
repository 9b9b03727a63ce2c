"""Name the people of a conversation, and let others join it by a link."""

from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from connections.credentials.identity import name_user
from connections.models.user_key import get_users
from sessions_history import members
from sessions_history.exceptions import InvitationInvalid, TooManyMembers
from sessions_history.member_models import Role, SessionMember
from sessions_history.models import Session
from sessions_history.roles import read_roles

_REASONS = {
    "unknown": (404, "This link is not complete, or its conversation is deleted."),
    "expired": (410, "This link has expired. Ask for a new one."),
    "revoked": (410, "This link was withdrawn."),
    "used": (410, "Somebody has joined by this link. It works once."),
}


@require_safe
@login_required
@never_cache
def show_people(request: HttpRequest, session_id: str) -> HttpResponse:
    """Answer with the author, name and role of each person, the owner first."""
    user: Any = request.user
    role = read_roles([session_id]).find(session_id, name_user(user), user.pk)
    # To strangers a session is one that does not exist, or has no entry yet.
    people = find_people(session_id) if role is not None else []
    return JsonResponse({"people": people})


def find_people(session_id: str) -> list[dict[str, Any]]:
    """Return who owns a session that exists, and its members in their order."""
    owner_id = Session.objects.values_list("user_id", flat=True).get(pk=session_id)
    rows = SessionMember.objects.filter(session=session_id).order_by("pk")
    roles: dict[Any, str] = {}
    if owner_id is not None:
        roles[owner_id] = Role.OWNER.value
    roles.update(rows.values_list("user_id", "role"))
    users = get_users().in_bulk(list(roles))
    return [
        {"author": f"user:{key}", "name": users[key].get_username(), "role": role}
        for key, role in roles.items()
        if key in users
    ]


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
@never_cache
def join(request: HttpRequest) -> HttpResponse:
    """
    Ask whether the user joins; a POST makes the user a member.

    A GET changes nothing: programs that preview links would use the invitation up.
    The token is in the query, which no log of requests has.
    """
    if request.method != "POST":
        return render(request, "orchestra/join.html")
    try:
        joined = members.redeem(request.GET.get("token", ""), request.user)
    except InvitationInvalid as exc:
        status, reason = _REASONS[exc.reason]
    except TooManyMembers:
        status, reason = 409, "This conversation has as many members as allowed."
    else:
        return redirect(f"{reverse('conversations')}?session={joined.session_id}")
    context = {"reason": reason}
    return render(request, "orchestra/join.html", context, status=status)
