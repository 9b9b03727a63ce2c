"""The consumers under attack behind this project's middleware."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orchestra.settings")
django_application = get_asgi_application()

from connections.consumers import LimitedConsumer  # noqa: E402
from connections.routing import protect  # noqa: E402
from tests.abuse.served.routes import make_routes  # noqa: E402

application = protect(http=django_application, websocket=make_routes(LimitedConsumer))
