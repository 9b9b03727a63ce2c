"""Test that the thread of a request leaves no database connection open."""

from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.core.asgi import get_asgi_application
from django.db import connection, connections
from django.http import HttpRequest, HttpResponse
from django.urls import path

from connections.testing.waiting import scale

opened: list[Any] = []


def use_database(request: HttpRequest) -> HttpResponse:
    connection.ensure_connection()
    opened.append(connections["default"])
    return HttpResponse("used")


urlpatterns = [path("used/", use_database)]


@pytest.fixture
def persistent(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the connections to the database kept, as CONN_MAX_AGE = None does."""
    settings.ROOT_URLCONF = __name__
    monkeypatch.setitem(connections.databases["default"], "CONN_MAX_AGE", None)
    yield
    opened.clear()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("persistent")
async def test_a_request_leaves_no_connection_open() -> None:
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/used/",
        "headers": [(b"host", b"localhost")],
    }
    communicator: Any = ApplicationCommunicator(  # type: ignore[no-untyped-call]
        get_asgi_application(), scope
    )
    await communicator.send_input({"type": "http.request", "body": b""})
    seconds = scale(15)
    assert (await communicator.receive_output(seconds))["status"] == 200
    await communicator.receive_output(seconds)
    await communicator.wait(seconds)
    (used,) = opened
    assert used.connection is None
