"""
Views that benchmarks.http measures, in any version of the project.

The folder of this module is on the path of the served version.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orchestra.settings")
settings.ROOT_URLCONF = "http_views"
django.setup()

from django.contrib.auth.hashers import make_password  # noqa: E402
from django.http import (  # noqa: E402
    HttpRequest,
    HttpResponse,
    StreamingHttpResponse,
)
from django.urls import include, path  # noqa: E402
from django.views.decorators.csrf import csrf_exempt  # noqa: E402

PART = bytes(65_536)


def hash_password(request: HttpRequest) -> HttpResponse:
    """Hash a password, as a sign-in does."""
    return HttpResponse(make_password("a password"))


async def stream(request: HttpRequest) -> StreamingHttpResponse:
    """Send so many parts of 64 kB."""

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(int(request.GET["parts"])):
            yield PART
            await asyncio.sleep(0)

    return StreamingHttpResponse(parts())


@csrf_exempt
async def upload(request: HttpRequest) -> HttpResponse:
    """Count the bytes of a body."""
    size = 0
    while piece := request.read(65_536):
        size += len(piece)
    return HttpResponse(str(size))


urlpatterns: list[Any] = [
    path("hash", hash_password),
    path("stream", stream),
    path("upload", upload),
    path("", include("connections.urls")),
]

from connections.routing import protect  # noqa: E402

application = protect(http=get_asgi_application(), websocket=[])
