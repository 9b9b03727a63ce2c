"""URLs of a client's own sessions, which a project includes to have them."""

from django.urls import path

from sessions_history.http import views

urlpatterns = [
    path("api/sessions/", views.sessions, name="own_sessions"),
    path("api/sessions/<str:session_id>/", views.session, name="own_session"),
    path("api/sessions/<str:session_id>/entries/", views.entries, name="own_entries"),
]
