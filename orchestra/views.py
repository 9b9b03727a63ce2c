"""Show the demonstration: conversations that survive their connections."""

import json

from django.contrib.auth.decorators import login_not_required, login_required
from django.db.models import OuterRef, Q, Subquery
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.templatetags.static import static

from connections.credentials.identity import name_user
from sessions_history.member_models import SessionMember
from sessions_history.models import HistoryEntry, Session
from sessions_history.responders import get_responder_path

_SHOWN = 12
_TITLE_CHARACTERS = 60


@login_required
def show_conversations(request: HttpRequest) -> HttpResponse:
    """Show the sessions that a user has or is a member of, one of them live."""
    client_id = name_user(request.user)
    shared = SessionMember.objects.filter(user=request.user.pk).values("session")
    first_said = HistoryEntry.objects.filter(
        session=OuterRef("pk"), sender=HistoryEntry.Sender.CLIENT
    ).order_by("offset")
    found = (
        Session.objects.filter(Q(client_id=client_id) | Q(pk__in=shared))
        .filter(last_offset__gt=0)
        .annotate(first_said=Subquery(first_said.values("data")[:1]))
        .values("session_id", "client_id", "title", "last_seen_at", "first_said")
    )
    conversations = [
        {
            **one,
            "title": one["title"] or make_title(one["first_said"]),
            "is_shared": one["client_id"] != client_id,
        }
        for one in found[: _SHOWN + 1]
    ]
    context = {
        "conversations": conversations[:_SHOWN],
        "has_older": len(conversations) > _SHOWN,
        "session_id": request.GET.get("session", ""),
        "has_responder": bool(get_responder_path()),
    }
    return render(request, "orchestra/conversations.html", context)


def make_title(first_said: str | None) -> str:
    """Return the title of a conversation that has none: the first words said."""
    content = json.loads(first_said or "null")
    text = content.get("text") if isinstance(content, dict) else content
    words = " ".join(str(text or "").split())
    if len(words) > _TITLE_CHARACTERS:
        words = f"{words[: _TITLE_CHARACTERS - 1].rstrip()}…"
    return words or "Untitled"


@login_not_required
def redirect_to_icon(request: HttpRequest) -> HttpResponse:
    """Redirect browsers that ask for /favicon.ico, on pages that name no icon."""
    return redirect(static("connections/favicon.svg"))
