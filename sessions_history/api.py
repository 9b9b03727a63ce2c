"""The sessions in the operators' API."""

from connections.api.resources import Resource, add_resource
from connections.api.tables import OF_CLIENT, OF_USER
from sessions_history.models import Session


def register() -> None:
    """Add the list of sessions; called once, when the app is ready."""
    add_resource(
        Resource(
            name="sessions",
            item="session",
            about="Sessions, the last used first, without their entries.",
            permission="sessions_history.view_session",
            rows=Session.objects.all,
            order=("-last_seen_at", "-session_id"),
            key="session_id",
            fields={
                "id": "session_id",
                "client": "client_id",
                "user": "user_id",
                "epoch": "epoch",
                "last_offset": "last_offset",
                "created_at": "created_at",
                "last_seen_at": "last_seen_at",
            },
            filters={"client": OF_CLIENT, "user": OF_USER},
        )
    )
