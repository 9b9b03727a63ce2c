"""
Serve the sample in the edition that DROP_IN_EDITION names.

Stock is what Channels' documentation tells to write; limited stands behind
protect(), as the quickstart does.
"""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orchestra.settings")
django.setup()

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.urls import path  # noqa: E402

from tests.drop_in.editions import load  # noqa: E402

EDITION = os.environ["DROP_IN_EDITION"]
tutorial = load("tutorial", EDITION)
routes = [
    path("chat/<str:room_name>/", tutorial.ChatConsumer.as_asgi()),
    path("async-chat/<str:room_name>/", tutorial.AsyncChatConsumer.as_asgi()),
]
for flavour in ("asynchronous", "synchronous"):
    sample = load(flavour, EDITION)
    routes += [
        path(f"{flavour}/echo/", sample.Echo.as_asgi()),
        path(f"{flavour}/json/", sample.JsonEcho.as_asgi()),
        path(f"{flavour}/member/", sample.Member.as_asgi()),
        path(f"{flavour}/subprotocols/", sample.Subprotocols.as_asgi()),
        path(f"{flavour}/door/<slug:manner>/", sample.Doorkeeper.as_asgi()),
        path(f"{flavour}/farewell/", sample.Farewell.as_asgi()),
        path(f"{flavour}/users/", sample.Users.as_asgi()),
    ]

http = get_asgi_application()
if EDITION == "limited":
    from connections.routing import protect

    application = protect(http=http, websocket=routes)
else:
    application = ProtocolTypeRouter({"http": http, "websocket": URLRouter(routes)})
