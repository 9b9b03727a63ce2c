"""The application of the project; its spans are of the service `serve`."""

import json
from typing import Any

from django.core.asgi import get_asgi_application
from django.urls import path
from opentelemetry import trace

from tests.integration.traced.provider import make_provider

trace.set_tracer_provider(make_provider("serve"))
django_application = get_asgi_application()

from connections.routing import protect  # noqa: E402
from sessions_history.consumers import SessionConsumer  # noqa: E402


class Watching(SessionConsumer):
    """Tells its client when a worker has answered."""

    groups = ["answers"]

    async def answered(self, event: dict[str, Any]) -> None:
        await self.connection.send(json.dumps({"type": "answered"}))


application = protect(
    http=django_application,
    websocket=[path("ws/sessions/<str:session_id>/", Watching.as_asgi())],
)
