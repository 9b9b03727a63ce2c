"""
A consumer that is slow to accept, with `protect()` or, if UNPROTECTED is set, without.

It appends to the file that SEEN names, and waits for a line there.
"""

import os
from pathlib import Path
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orchestra.settings")
django.setup()

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.urls import path  # noqa: E402

from connections.consumers import LimitedConsumer, LimitedJsonConsumer  # noqa: E402
from connections.routing import protect  # noqa: E402
from connections.testing import wait_until  # noqa: E402

SEEN = Path(os.environ["SEEN"])


class PatientConsumer(LimitedConsumer):
    """Record the handshake, and accept once the file says "accept" and the path."""

    async def connect(self) -> None:
        path = self.scope["path"]
        self._note(f"waits {path}")
        await wait_until(lambda: f"accept {path}\n" in SEEN.read_text())
        try:
            await self.accept()
        finally:
            self._note(f"answered {path}")

    def _note(self, text: str) -> None:
        with SEEN.open("a") as file:
            file.write(f"{text}\n")


class EchoConsumer(LimitedJsonConsumer):
    """Answer with each message."""

    async def handle_echo(self, content: dict[str, Any]) -> None:
        await self.send_json(content)


http = get_asgi_application()
websocket = [
    path("patient/", PatientConsumer.as_asgi()),
    path("echo/", EchoConsumer.as_asgi()),
]
application: Any
if "UNPROTECTED" in os.environ:
    application = ProtocolTypeRouter({"http": http, "websocket": URLRouter(websocket)})
else:
    live = [path("patient/live", PatientConsumer.as_asgi())]
    application = protect(http=http, websocket=websocket, live=live)
