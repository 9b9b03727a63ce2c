"""Test the routes of handshakes, under every form of a URL prefix."""

from typing import Any

import pytest
from channels.routing import URLRouter
from django.test.utils import override_script_prefix
from django.urls import path, re_path

from connections.consumers import LimitedJsonConsumer
from connections.net.script_prefix import remove_script_prefix, with_script_prefix
from connections.routing import WebSocketRouter
from connections.testing.communicators import Communicator, make_node


class Placed(LimitedJsonConsumer):
    """Sends the place where its handshake arrived."""

    async def connect(self) -> None:
        await self.accept()
        await self.send_json(
            {
                "path": self.scope["path"],
                "within": remove_script_prefix(self.scope),
                "room": self.scope["url_route"]["kwargs"].get("room"),
                "route": self.scope["route"],
            }
        )


ROUTES: list[Any] = [
    path("ws/<str:room>/", Placed.as_asgi()),
    path("nested/", URLRouter([path("ws/<str:room>/", Placed.as_asgi())])),
]
PREFIXED: list[Any] = [
    path("app/ws/<str:room>/", Placed.as_asgi()),
    re_path(r"^app/nested/", URLRouter([path("ws/<str:room>/", Placed.as_asgi())])),
]


async def reach(
    routes: list[Any], where: str, *, root_path: str = "", forced: str | None = None
) -> Any:
    """Return the first message of a consumer, or the status of a refusal."""
    scope = {"type": "websocket", "path": where, "root_path": root_path}
    placed = with_script_prefix(scope, forced)
    communicator = Communicator(WebSocketRouter(routes), placed["path"])
    communicator.scope.update(
        root_path=placed["root_path"],
        node=make_node(anonymous=True),
        client=["192.0.2.1", 1],
        extensions={"websocket.http.response": {}},
    )
    await communicator.send_input({"type": "websocket.connect"})
    answer = await communicator.receive_output()
    if answer["type"] == "websocket.http.response.start":
        return answer["status"]
    found = await communicator.receive_json_from()
    await communicator.disconnect()
    return found


@pytest.mark.parametrize("where", ["/app/ws/lobby/", "/ws/lobby/"])
@pytest.mark.parametrize(
    ("root_path", "forced"),
    [
        ("/app", None),
        ("/app/", None),
        ("app", None),
        ("", "/app"),
        ("", "/app/"),
        ("/app", "/app"),
    ],
)
async def test_a_proxy_may_remove_the_prefix_or_not(
    where: str, root_path: str, forced: str | None
) -> None:
    found = await reach(ROUTES, where, root_path=root_path, forced=forced)
    assert found == {
        "path": "/app/ws/lobby/",
        "within": "/ws/lobby/",
        "room": "lobby",
        "route": "ws/<str:room>/",
    }


@pytest.mark.parametrize("where", ["/app/nested/ws/lobby/", "/nested/ws/lobby/"])
async def test_nested_routes_are_found_below_the_prefix(where: str) -> None:
    found = await reach(ROUTES, where, root_path="/app")
    assert (found["within"], found["room"]) == ("/nested/ws/lobby/", "lobby")


@pytest.mark.parametrize("where", ["/app/ws/lobby/", "/app/nested/ws/lobby/"])
async def test_routes_may_name_the_prefix_as_channels_needs_them_to(where: str) -> None:
    """Channels ignores FORCE_SCRIPT_NAME."""
    found = await reach(PREFIXED, where, forced="/app")
    assert (found["path"], found["room"]) == (where, "lobby")


@pytest.mark.parametrize("root_path", ["", "/app", "/other"])
@pytest.mark.parametrize(
    "where", ["/", "/nowhere/", "/nested/", "/app", "/app/", "/application/ws/lobby/"]
)
async def test_an_unknown_path_is_404(root_path: str, where: str) -> None:
    assert await reach(ROUTES, where, root_path=root_path) == 404


def test_a_scope_without_a_prefix_is_unchanged() -> None:
    scope = {"type": "websocket", "path": "/ws/", "root_path": ""}
    assert with_script_prefix(scope, None) is scope
    assert remove_script_prefix(scope) == "/ws/"


@pytest.mark.parametrize("where", ["/app/admin/", "/admin/"])
def test_a_page_finds_its_whole_path_where_the_proxy_removes_the_prefix(
    where: str,
) -> None:
    """Django takes request.path from the scope, for the way back from a login."""
    scope = {"type": "http", "path": where, "root_path": "/app"}
    assert with_script_prefix(scope, None)["path"] == "/app/admin/"


def test_a_prefix_that_django_cannot_remove_is_left_to_it() -> None:
    scope = {"type": "http", "path": "/admin/", "root_path": ""}
    assert with_script_prefix(scope, "/app/") is scope


def test_the_socket_of_the_dashboard_has_the_prefix(admin_client: Any) -> None:
    where = "/admin/connections/livedashboard/"
    admin_client.get(where)  # Django keeps the address of static files.
    with override_script_prefix("/app/"):
        page = admin_client.get(where)
    assert 'data-socket="/app/ws/connections/live/?site=admin"' in page.content.decode()


@pytest.mark.parametrize("where", ["/ws/a/", "/nested/ws/a/"])
def test_no_frame_of_a_router_lasts_as_long_as_a_connection(where: str) -> None:
    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        return

    scope = {"type": "websocket", "path": where}
    serving: Any = WebSocketRouter(ROUTES)(scope, receive, send)
    try:
        assert serving.__qualname__ == "CredentialMiddleware.__call__"
    finally:
        serving.close()
