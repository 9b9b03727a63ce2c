"""Test that probes are answered on the event loop, ahead of Django."""

import json
from typing import Any

import pytest
from django.conf.urls.i18n import i18n_patterns
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django.views.decorators.http import require_safe

from connections.asgi import Message, Receive, Send
from connections.config.loader import get_config
from connections.node.current import get_node
from connections.routing import protect
from connections.views import health

DEFAULT = (path("", include("connections.urls")),)
PREFIXED = (path("ops/", include("connections.urls")),)
OPEN_TO_ALL: dict[str, Any] = {"metrics": {"allowed_addresses": ["203.0.113.0/24"]}}

TOKEN = "secret-of-prometheus"


async def stuck(scope: Message, receive: Receive, send: Send) -> None:
    """Stand for a project whose middleware and threads answer nothing."""
    raise AssertionError("the request reached the project")


async def ask(
    target: str = "/readyz",
    method: str = "GET",
    *,
    address: str | None = "203.0.113.9",
    headers: dict[str, str] | None = None,
    root_path: str = "",
) -> tuple[int, bytes, dict[bytes, bytes]]:
    """Send a request with a Host that the settings do not allow."""
    sent = {"host": "elsewhere.example", **(headers or {})}
    scope = {
        "type": "http",
        "method": method,
        "path": target,
        "root_path": root_path,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
        "client": address and [address, 40_000],
    }
    events: list[Message] = []

    async def send(event: Message) -> None:
        events.append(event)

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    await protect(http=stuck, websocket=[])(scope, receive, send)
    start, body = events
    return start["status"], body["body"], dict(start["headers"])


async def reaches_the_project(target: str, method: str = "GET") -> bool:
    try:
        await ask(target, method)
    except AssertionError as exc:
        return "reached the project" in str(exc)
    return False


@pytest.fixture(autouse=True)
def urls(settings: Any) -> Any:
    settings.ROOT_URLCONF = DEFAULT
    settings.METRICS_TOKEN = TOKEN
    settings.WEBSOCKET = {}
    return settings


async def test_probes_need_no_allowed_host_and_no_thread() -> None:
    for target in ("/livez", "/readyz"):
        status, body, headers = await ask(target)
        assert (status, json.loads(body)) == (200, {"status": "ok"})
        assert headers[b"content-length"] == str(len(body)).encode()
        assert headers[b"cache-control"] == b"no-store"


async def test_probes_are_answered_at_the_prefix_of_the_project(urls: Any) -> None:
    urls.ROOT_URLCONF = PREFIXED
    assert (await ask("/ops/livez"))[0] == 200
    assert await reaches_the_project("/livez")


async def test_the_prefix_may_hold_a_parameter_or_a_language(urls: Any) -> None:
    urls.ROOT_URLCONF = (
        path("<slug:tenant>/", include("connections.urls")),
        *i18n_patterns(path("ops/", include("connections.urls"))),
    )
    assert (await ask("/blue/livez"))[0] == 200
    assert (await ask("/en-us/ops/readyz"))[0] == 200


async def test_probes_are_answered_below_a_root_path(urls: Any) -> None:
    assert (await ask("/app/livez", root_path="/app"))[0] == 200
    urls.FORCE_SCRIPT_NAME = "/forced"
    assert (await ask("/forced/livez"))[0] == 200


@pytest.mark.parametrize("written", ["/ops", "/ops/"])
async def test_a_configured_path_needs_no_urls(urls: Any, written: str) -> None:
    urls.ROOT_URLCONF = (path("", include([])),)
    urls.WEBSOCKET = {"health": {"path": written}}
    assert (await ask("/ops/readyz"))[0] == 200
    assert (await ask("/ops/livez"))[0] == 200
    assert await reaches_the_project("/livez")


@pytest.mark.parametrize("written", ["ops/", "/a b/", "/ops/?x", 7, None])
def test_a_path_that_no_request_has_is_refused(urls: Any, written: object) -> None:
    urls.WEBSOCKET = {"health": {"path": written}}
    (problem,) = get_config().problems
    assert "websocket.health.path" in str(problem)
    assert "a path of URLs such as / or /health/" in str(problem)


async def test_views_of_the_project_with_these_names_are_its_own(urls: Any) -> None:
    def own(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    urls.ROOT_URLCONF = (
        path("livez", own),
        path("guarded/readyz", require_safe(health.readyz)),
        *DEFAULT,
    )
    assert await reaches_the_project("/livez")
    assert await reaches_the_project("/guarded/readyz")
    assert (await ask("/readyz"))[0] == 200


@pytest.mark.parametrize(
    ("target", "method"),
    [("/livez", "POST"), ("/livez/", "GET"), ("/metrics", "GET"), ("/", "GET")],
)
async def test_other_requests_reach_the_project(target: str, method: str) -> None:
    assert await reaches_the_project(target, method)


async def test_without_a_urlconf_a_request_reaches_the_project(urls: Any) -> None:
    urls.ROOT_URLCONF = "tests.no_such_module"
    assert await reaches_the_project("/livez")


async def test_head_has_the_headers_alone() -> None:
    status, body, headers = await ask("/readyz", "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers[b"content-length"]) > 0


async def test_a_draining_node_says_nothing_more_to_strangers() -> None:
    get_node().begin_drain()
    status, body, _ = await ask()
    assert (status, json.loads(body)) == (503, {"status": "draining"})
    assert (await ask("/livez"))[0] == 200


@pytest.mark.parametrize(
    ("address", "headers", "is_observer"),
    [
        ("203.0.113.9", {}, False),
        ("2001:db8::9", {}, False),
        (None, {}, False),
        ("127.0.0.1", {}, True),
        ("::1", {}, True),
        ("::ffff:127.0.0.1", {}, True),
        ("127.0.0.1", {"x-forwarded-for": "127.0.0.1"}, False),
        ("127.0.0.1", {"via": "1.1 proxy"}, False),
        ("203.0.113.9", {"authorization": f"Bearer {TOKEN}"}, True),
        ("203.0.113.9", {"authorization": "Bearer another"}, False),
        ("203.0.113.9", {"authorization": "Bearer caf\u00e9"}, False),
    ],
)
async def test_node_counts_and_reasons_are_for_observers_alone(
    address: str | None, headers: dict[str, str], is_observer: bool
) -> None:
    _, body, _ = await ask(address=address, headers=headers)
    content = json.loads(body)
    assert ("node" in content, "open" in content, "reasons" in content) == (
        (is_observer,) * 3
    )
    liveness = await ask("/livez", address=address, headers=headers)
    assert json.loads(liveness[1]) == {"status": "ok"}


@pytest.mark.parametrize(
    ("peer", "headers", "is_observer"),
    [
        ("10.0.0.1", {"x-forwarded-for": "203.0.113.9"}, True),
        ("10.0.0.1", {"x-forwarded-for": "127.0.0.1, 203.0.113.9"}, True),
        ("10.0.0.1", {"x-forwarded-for": "198.51.100.9"}, False),
        ("10.0.0.1", {"x-forwarded-for": "127.0.0.1"}, False),
        ("10.0.0.1", {"x-forwarded-for": "127.0.0.53"}, False),
        ("10.0.0.1", {"x-forwarded-for": "::1"}, False),
        ("10.0.0.1", {"x-forwarded-for": "[::1]:80"}, False),
        ("10.0.0.1", {"x-forwarded-for": "::ffff:127.0.0.1"}, False),
        ("10.0.0.1", {"x-forwarded-for": "192.168.0.7"}, True),
        ("10.0.0.1", {"x-forwarded-for": "172.16.0.7"}, True),
        ("10.0.0.1", {"x-forwarded-for": "fd00::7"}, True),
        ("10.0.0.1", {"x-forwarded-for": "fe80::7%eth0"}, False),
        ("10.0.0.1", {"x-forwarded-for": "0.0.0.0"}, False),
        ("10.0.0.1", {"x-forwarded-for": "10.0.0.2"}, False),
        ("10.0.0.1", {"x-forwarded-for": ""}, False),
        ("10.0.0.1", {"x-forwarded-for": "garbage"}, False),
        ("10.0.0.1", {"x-forwarded-proto": "https"}, False),
        ("10.0.0.1", {"x-real-ip": "127.0.0.1"}, False),
        ("10.0.0.1", {"forwarded": "for=127.0.0.1"}, False),
        ("10.0.0.1", {}, True),
        (None, {"x-forwarded-for": "127.0.0.1"}, False),
        ("127.0.0.1", {}, True),
        ("127.0.0.1", {"x-forwarded-for": "127.0.0.1"}, False),
        ("127.0.0.1", {"x-forwarded-host": "here"}, False),
    ],
)
async def test_a_trusted_proxy_does_not_speak_for_a_local_address(
    urls: Any, peer: str | None, headers: dict[str, str], is_observer: bool
) -> None:
    """A proxy may pass on an X-Forwarded-For that the client has sent."""
    allowed = ["127.0.0.0/8", "::1", "10.0.0.0/8", "192.168.0.0/16", "172.16.0.0/12"]
    urls.WEBSOCKET = {
        "trusted_proxies": ["10.0.0.0/24", "127.0.0.1"],
        "metrics": {"allowed_addresses": [*allowed, "fd00::/8", "203.0.113.0/24"]},
    }
    _, body, _ = await ask(address=peer, headers=headers)
    assert ("reasons" in json.loads(body)) is is_observer


async def test_allowed_addresses_of_the_configuration_are_observers(urls: Any) -> None:
    urls.WEBSOCKET = OPEN_TO_ALL
    _, body, _ = await ask()
    assert json.loads(body)["reasons"] == []
