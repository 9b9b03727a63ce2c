"""Serve one connection under Sentry's integration of Django; print what it sends."""

import asyncio
import json
import os
from typing import Any

import django
import sentry_sdk
from sentry_sdk.integrations.django import DjangoIntegration
from sentry_sdk.transport import Transport

events: list[dict[str, Any]] = []


class Captured(Transport):
    def capture_envelope(self, envelope: Any) -> None:
        events.extend(
            item.payload.json
            for item in envelope.items
            if item.headers["type"] in ("event", "transaction")
        )


async def converse() -> list[str]:
    """Return the refs that a client gets for a message that fails."""
    from channels.routing import ProtocolTypeRouter
    from django.core.asgi import get_asgi_application

    from connections.testing.communicators import Communicator, make_node
    from tests.connections.conversations import JsonEcho, receive_type

    application = ProtocolTypeRouter(
        {"http": get_asgi_application(), "websocket": JsonEcho.as_asgi()}
    )
    communicator = Communicator(application, "/ws/")
    communicator.scope["node"] = make_node()
    assert (await communicator.connect())[0]
    await communicator.send_json_to({"type": "fail"})
    ref: str = (await receive_type(communicator, "error"))["ref"]
    await communicator.disconnect()
    return [ref]


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orchestra.settings")
    sentry_sdk.init(
        dsn="https://key@sentry.invalid/1",
        transport=Captured(),
        integrations=[DjangoIntegration()],
        traces_sample_rate=1.0,
    )
    django.setup()
    refs = asyncio.run(converse())
    sentry_sdk.flush()
    captured = [one["tags"]["ref"] for one in events if "exception" in one]
    kinds = [one.get("transaction") for one in events if one.get("type")]
    print(json.dumps({"refs": refs, "captured": captured, "transactions": kinds}))


if __name__ == "__main__":
    main()
