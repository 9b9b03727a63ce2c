"""Test limits that are observed: all is decided and counted, and nothing is done."""

import logging
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.urls import path

from connections import close_codes
from connections.config.enforcement import FAR_OVER
from connections.config.loader import load
from connections.consumers import LimitedConsumer, LimitedJsonConsumer
from connections.middleware import OriginMiddleware
from connections.node.node import Node
from connections.routing import WebSocketRouter
from connections.server.websocket.frames import TEXT, FrameReader
from connections.testing.communicators import (
    Communicator,
    connect_to,
    make_config,
    make_node,
)
from connections.testing.waiting import wait_until
from connections.units import utc_now
from connections.views.series import describe_series
from tests.connections.conversations import Echo, receive_close, receive_type
from tests.connections.virtual_loop import VirtualTime
from tests.integration.redis_process import RedisProcess

ALL = dict.fromkeys(("clients", "total", "rate", "idle"), "observe")


def count(node: Node) -> dict[str, int]:
    """Return what the limits of a node would have done, by limit."""
    found: dict[str, int] = node.counters.get_totals(())["would_have"]
    return found


async def open_all(node: Node, number: int, **scope: Any) -> list[Any]:
    opened = [connect_to(Echo, node, **scope) for _ in range(number)]
    for communicator in opened:
        assert (await communicator.connect())[0]
    return opened


async def close_all(opened: list[Any]) -> None:
    for communicator in opened:
        await communicator.disconnect()


async def test_nobody_is_evicted_and_each_eviction_counts_once() -> None:
    node = make_node(max_connections_per_client=2, enforce={"clients": "observe"})
    opened = await open_all(node, 5)
    assert [one.close_reason for one in node.hub] == [None] * 5
    assert count(node) == {"clients": 3}
    assert (await node.get_usage()).slots == 2
    await close_all(opened)
    assert (await node.get_usage()).slots == 0


async def test_a_newcomer_is_admitted_where_it_would_be_refused() -> None:
    node = make_node(
        max_connections_per_client=2,
        on_client_limit="refuse",
        enforce={"clients": "observe"},
    )
    opened = await open_all(node, 4)
    assert (len(node.hub), count(node)) == (4, {"clients": 2})
    # As if it had never been open: its end makes no room.
    await opened.pop().disconnect()
    opened += await open_all(node, 1)
    assert count(node) == {"clients": 3}
    await opened.pop(0).disconnect()
    opened += await open_all(node, 1)
    assert count(node) == {"clients": 3}
    await close_all(opened)


async def test_a_full_pool_refuses_nobody_while_the_total_is_observed() -> None:
    node = make_node(
        max_total_connections=2,
        max_connections_per_client=2,
        enforce={"total": "observe"},
    )
    opened = [connect_to(Echo, node, client_id=f"c{index}") for index in range(5)]
    for communicator in opened:
        assert (await communicator.connect())[0]
    assert (len(node.hub), count(node)) == (5, {"total": 3})
    await close_all(opened)


async def test_an_idle_connection_would_have_ended_once() -> None:
    node = make_node(idle_timeout_seconds=60, enforce=ALL)
    [communicator] = await open_all(node, 1)
    for _ in range(3):
        await node.advance(61)
    assert count(node) == {"idle": 1}
    [connection] = node.hub
    assert connection.close_reason is None
    events = [one["event"] for one in connection.flight.describe(0)]
    assert events.count("would_have_ended") == 1
    # Its slot is free, as it would be.
    assert (await node.get_usage()).slots == 0
    await communicator.disconnect()


async def test_an_enforced_limit_counts_connections_that_are_idle() -> None:
    node = make_node(
        max_connections_per_client=1,
        idle_timeout_seconds=60,
        enforce={"idle": "observe"},
    )
    [first] = await open_all(node, 1)
    await node.advance(61)
    [second] = await open_all(node, 1)
    assert (await receive_close(first))["code"] == close_codes.EVICTED.code
    await close_all([first, second])


async def test_the_mode_of_the_connection_that_would_end_decides() -> None:
    node = make_node(
        max_connections_per_client=1,
        enforce={"routes": {"ws/new/": {"clients": "observe"}}},
    )
    [observed] = await open_all(node, 1, route="ws/new/")
    [enforced] = await open_all(node, 1, route="ws/old/")
    assert count(node) == {"clients": 1}
    [third] = await open_all(node, 1, route="ws/new/")
    assert (await receive_close(enforced))["code"] == close_codes.EVICTED.code
    await close_all([observed, enforced, third])


async def test_far_over_the_limit_a_client_is_refused() -> None:
    node = make_node(max_connections_per_client=1, enforce={"clients": "observe"})
    opened = await open_all(node, FAR_OVER)
    late = connect_to(Echo, node)
    await late.connect()
    assert (await receive_close(late))["code"] == close_codes.CLIENT_FULL.code
    await close_all([*opened, late])


async def test_a_replaced_connection_ends_in_any_case() -> None:
    node = make_node(enforce=ALL)
    [old] = await open_all(node, 1)
    [connection] = node.hub
    query = f"replaces={connection.connection_id}".encode()
    [new] = await open_all(node, 1, query_string=query)
    assert (await receive_close(old))["reason"] == "replaced"
    assert count(node) == {}
    await close_all([old, new])


async def test_a_connection_without_a_slot_is_replaced_too() -> None:
    node = make_node(max_connections_per_client=1, enforce=ALL)
    opened = await open_all(node, 2)
    slotless = next(one for one in node.hub if one.slot is None)
    query = f"replaces={slotless.connection_id}".encode()
    [stranger] = await open_all(node, 1, query_string=query, client_id="bob")
    assert slotless.close_reason is None
    opened += await open_all(node, 1, query_string=query)
    assert (await receive_close(opened[0]))["reason"] == "replaced"
    await close_all([*opened, stranger])


class Json(LimitedJsonConsumer):
    async def handle_echo(self, content: Any) -> None:
        await self.send_json(content)


async def test_messages_over_the_rate_pass_and_count() -> None:
    node = make_node(rate_limit={"burst_messages": 2}, enforce={"rate": "observe"})
    communicator = connect_to(Json, node)
    await communicator.connect()
    for _ in range(5):
        await communicator.send_json_to({"type": "echo"})
        await receive_type(communicator, "echo")
    assert count(node) == {"rate": 3}
    assert node.counters.rate_limited == 0
    await communicator.disconnect()


async def test_a_rate_far_over_the_limit_is_enforced() -> None:
    node = make_node(rate_limit={"burst_messages": 2}, enforce={"rate": "observe"})
    communicator = connect_to(Json, node)
    await communicator.connect()
    for _ in range(2 + 2 * FAR_OVER):
        await communicator.send_json_to({"type": "echo"})
        await receive_type(communicator, "echo")
    await communicator.send_json_to({"type": "echo"})
    assert (await receive_type(communicator, "error"))["code"] == "rate_limited"
    await communicator.disconnect()


class Silent(LimitedConsumer):
    async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None: ...


async def type_in(node: Node, number: int) -> None:
    """Send messages as fast as they are handled, and leave."""
    communicator = connect_to(Silent, node)
    assert (await communicator.connect(timeout=60))[0]
    for _ in range(number):
        await communicator.send_input({"type": "websocket.receive", "text": "x"})
    await communicator.send_input({"type": "websocket.disconnect", "code": 1000})
    await communicator.wait(timeout=60)


@pytest.mark.parametrize("number", [100, 150, 350, 480])
def test_delays_are_counted_as_they_would_come(number: int) -> None:
    """The same messages are delayed, and the same connection would be closed."""
    counts = []
    for mode in ("enforce", "observe"):
        with VirtualTime() as time:
            config = make_config(enforce={"rate": mode})
            node = Node(config, clock=time)
            time.run(type_in(node, number))
            treated = node.counters.rate_limited + count(node).get("rate", 0)
            counts.append(treated)
            assert (time() < 0.1) is (mode == "observe" or number == 100)
    assert counts[0] == counts[1]


async def test_a_large_message_passes_where_its_size_is_observed() -> None:
    node = make_node(
        max_message_size=10,
        buffers={"max_receive_bytes": 2000},
        enforce={"routes": {"ws/big/": {"size": "observe"}}},
    )
    [communicator] = await open_all(node, 1, route="ws/big/")
    await communicator.send_to(text_data="x" * 2000)
    assert await communicator.receive_from() == "x" * 2000
    assert count(node) == {"size": 1}
    await communicator.send_to(text_data="x" * 2001)
    assert (await receive_close(communicator))["code"] == 4013
    await communicator.disconnect()


async def test_an_expired_credential_stays_without_a_warning() -> None:
    node = make_node(enforce={"routes": {"ws/old/": {"expiry": "observe"}}})
    communicator = connect_to(Json, node, route="ws/old/")
    await communicator.connect()
    [connection] = node.hub
    connection.expires_at = utc_now() - timedelta(days=1)
    for _ in range(2):
        await node.activity.check_expiry()
    assert count(node) == {"expiry": 1}
    assert await communicator.receive_nothing()
    await communicator.disconnect()


async def test_decisions_are_logged_as_a_sample(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    node = make_node(
        max_connections_per_client=2,
        max_total_connections=100,
        enforce={"clients": "observe"},
    )
    opened = await open_all(node, 19)
    lines = [one for one in caplog.records if getattr(one, "event", "") == "would_have"]
    assert (count(node), len(lines)) == ({"clients": 17}, 10)
    assert sum(one.keeps_flight for one in node.hub) == 10
    await close_all(opened)


def test_a_node_says_at_its_start_what_it_observes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = make_config(
        enforce={"idle": "observe", "routes": {"x/": {"size": "observe"}}}
    )
    with VirtualTime() as time:
        time.run(_announce(Node(config, clock=time)))
    assert "Observed, not enforced: idle; size on x/" in caplog.text
    assert "names unknown routes: x/" in caplog.text


async def _announce(node: Node) -> None:
    node.observer.announce(node.config.enforce)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"clients": "off"}, "enforce.clients: 'off' is not allowed; one of enforce"),
        ({"origin": "observe"}, "enforce.origin: .* known: clients, total, rate, idle"),
        ({"routes": ["ws/"]}, "enforce.routes: .* a mapping of routes to modes"),
        ({"routes": {"ws/": "observe"}}, "enforce.routes.ws/: .*a mapping of clients"),
        ({"routes": {"ws/": {"idle": 1}}}, "enforce.routes.ws/.idle: 1 is not allowed"),
        ({"routes": {"ws/": {"ping": "observe"}}}, "ws/.ping: .*unknown limit; known"),
        ({"routes": {3: {"idle": "observe"}}}, "enforce.routes.3: 3 is not allowed"),
    ],
)
def test_a_wrong_mode_is_named(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(enforce=given)


def test_a_route_may_enforce_what_all_others_observe() -> None:
    enforce = make_config(
        enforce=ALL | {"routes": {"ws/a/": {"idle": "enforce", "size": "observe"}}}
    ).enforce
    assert enforce.find_observed("ws/a/") == {"clients", "total", "rate", "size"}
    assert enforce.find_observed("ws/b/") == set(ALL)
    assert enforce.find_observed("ws/b/") is enforce.find_observed("ws/c/")


def test_the_default_observes_nothing() -> None:
    enforce = make_config().enforce
    assert (enforce.find_observed(""), enforce.describe()) == (frozenset(), "")


def test_the_environment_sets_a_mode(tmp_path: Any) -> None:
    file = tmp_path / "websocket.yaml"
    file.write_text("websocket: {}")
    config = load(file, {"WEBSOCKET__ENFORCE__IDLE": "observe"})
    assert (config.problems, config.enforce.idle) == ((), "observe")


async def reach(node: Node, route: str, **headers: str) -> Any:
    """Return the answer to a handshake of a foreign page, with its cookie."""
    given = {"host": "testserver", "origin": "https://evil.example", **headers}
    communicator = Communicator(
        OriginMiddleware(WebSocketRouter([path("ws/a/", Echo.as_asgi())])), route
    )
    communicator.scope.update(
        node=node,
        client=["192.0.2.1", 1],
        extensions={"websocket.http.response": {}},
        headers=[(name.encode(), value.encode()) for name, value in given.items()],
    )
    await communicator.send_input({"type": "websocket.connect"})
    answer = await communicator.receive_output()
    await communicator.disconnect()
    return answer.get("status", answer["type"])


async def test_a_foreign_origin_is_observed_on_one_route() -> None:
    observed = {"routes": {"ws/a/": {"origin": "observe"}}}
    node = make_node(anonymous=True, enforce=observed)
    assert await reach(node, "/ws/a/") == "websocket.accept"
    assert count(node) == {"origin": 1}
    assert await reach(node, "/ws/a/", host="evil.example") == 403
    assert await reach(node, "/ws/b/") == 404
    other = make_node(
        anonymous=True, enforce={"routes": {"ws/b/": {"origin": "observe"}}}
    )
    assert await reach(other, "/ws/a/") == 403
    assert (count(node), count(other)) == ({"origin": 1}, {})


async def test_no_cookie_of_a_foreign_page_counts() -> None:
    """A cookie that is looked at would be refused: this node has no database."""
    observed = {"routes": {"ws/a/": {"origin": "observe"}}}
    node = make_node(anonymous=True, enforce=observed)
    cookie = f"{settings.SESSION_COOKIE_NAME}=abc"
    assert await reach(node, "/ws/a/", cookie=cookie) == "websocket.accept"


def test_an_origin_is_not_observed_where_cookies_are_accepted(tmp_path: Any) -> None:
    file = tmp_path / "websocket.yaml"
    file.write_text("websocket: {enforce: {routes: {ws/a/: {origin: observe}}}}")
    [problem] = load(file, {}).problems
    assert problem.path == "websocket.enforce.routes.ws/a/.origin"
    assert "the route may accept cookies" in str(problem)
    assert "connections.credentials.Sessions in credential_backends" in str(problem)
    own = "connections.credentials.AccessTokens"
    variable = {"WEBSOCKET__CREDENTIAL_BACKENDS": f"[{own}]"}
    assert load(file, variable).problems == ()
    variable = {"WEBSOCKET__CREDENTIAL_BACKENDS": f"[{own}, shop.Cookies]"}
    [problem] = load(file, variable).problems
    assert "shop.Cookies in credential_backends" in str(problem)


def test_a_reader_lets_a_larger_message_pass_once_it_may() -> None:
    reader = FrameReader(10)
    reader.max_message_size = 200
    reader.feed(b"\x81\xfe\x00\xc8" + bytes(4) + b"x" * 200)
    assert reader.next_event() == (TEXT, "x" * 200)


def test_metrics_count_by_limit_and_route() -> None:
    config = make_config(enforce={"idle": "observe"})
    with VirtualTime() as time:
        found = time.run(_describe(Node(config, clock=time)))
    samples = {tuple(one.labels.values()): one.value for one in found.samples}
    assert samples["clients", "ws/a/"] == 1
    assert samples["idle", "ws/a/"] == 0


async def _describe(node: Node) -> Any:
    node.counters.record_would_have("ws/a/", "clients")
    families = describe_series(node)
    return next(one for one in families if one.name == "websocket_would_have")


async def test_another_node_evicts_no_observed_connection(
    redis_server: RedisProcess,
) -> None:
    """The pool that nodes share takes the slot alone."""
    nodes = [
        Node(
            make_config(max_connections_per_client=1, enforce={"clients": mode}),
            redis_url=redis_server.url,
        )
        for mode in ("observe", "enforce")
    ]
    opened = [*await open_all(nodes[0], 1), *await open_all(nodes[1], 1)]
    await wait_until(lambda: count(nodes[0]) == {"clients": 1})
    assert [one.close_reason for one in nodes[0].hub] == [None]
    opened += await open_all(nodes[0], 1)
    assert (await receive_close(opened[1]))["code"] == close_codes.EVICTED.code
    assert (await nodes[0].get_usage()).slots == 1
    await close_all(opened)
    for node in nodes:
        await node.pool.close()
