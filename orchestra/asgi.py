"""The ASGI application: daphne orchestra.asgi:application, or uvicorn's."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orchestra.settings")
django_application = get_asgi_application()

# Models and settings can be imported only now.
from connections.routing import protect  # noqa: E402
from orchestra.routing import websocket_urlpatterns  # noqa: E402
from sessions_history.http.live import live_urlpatterns  # noqa: E402

application = protect(
    http=django_application,
    websocket=websocket_urlpatterns(),
    live=live_urlpatterns(),
)
