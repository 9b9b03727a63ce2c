"""
Serve sessions beside consumers that are stuck or slow.

    daphne tests.faults.applications:application
"""

from django.core.asgi import get_asgi_application
from django.urls import path

django_application = get_asgi_application()

# Models and settings are loaded only now.
from connections.routing import protect  # noqa: E402
from sessions_history.consumers import SessionConsumer  # noqa: E402
from tests.integration.consumers import (  # noqa: E402
    BroadcastConsumer,
    HesitantConsumer,
    JsonConsumer,
    StuckConsumer,
)

application = protect(
    http=django_application,
    websocket=[
        path("ws/sessions/<str:session_id>/", SessionConsumer.as_asgi()),
        path("json/", JsonConsumer.as_asgi()),
        path("stuck/", StuckConsumer.as_asgi()),
        path("broadcast/", BroadcastConsumer.as_asgi()),
        path("hesitant/", HesitantConsumer.as_asgi()),
    ],
)
