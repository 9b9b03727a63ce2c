"""URLs of a client's sessions and their members, which a project may include."""

from django.urls import path

from sessions_history.http import members, messages, openapi, streams, views

urlpatterns = [
    path("api/sessions/", views.sessions, name="own_sessions"),
    path("api/sessions/openapi.json", openapi.openapi, name="sessions_openapi"),
    path("api/sessions/join/", members.redeemed, name="join_session"),
    path("api/sessions/<str:session_id>/", views.session, name="own_session"),
    path("api/sessions/<str:session_id>/entries/", views.entries, name="own_entries"),
    path("api/sessions/<str:session_id>/present/", views.present, name="own_present"),
    path(
        "api/sessions/<str:session_id>/stream/", streams.stream, name="session_stream"
    ),
    path(
        "api/sessions/<str:session_id>/messages/",
        messages.messages,
        name="session_messages",
    ),
    path(
        "api/sessions/<str:session_id>/members/",
        members.session_members,
        name="session_members",
    ),
    path(
        "api/sessions/<str:session_id>/members/<str:key>/",
        members.session_member,
        name="session_member",
    ),
    path(
        "api/sessions/<str:session_id>/invitations/",
        members.invitations,
        name="session_invitations",
    ),
    path(
        "api/sessions/<str:session_id>/invitations/<str:key>/",
        members.invitation,
        name="session_invitation",
    ),
]
