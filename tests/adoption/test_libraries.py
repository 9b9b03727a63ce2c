"""Test libraries for Channels over limited consumers."""

import os
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest
from channels.layers import get_channel_layer
from django.contrib.auth.models import AnonymousUser, Group
from django.contrib.sessions.backends.db import SessionStore

from connections.testing.communicators import Communicator, connect_to, make_node
from tests.connections.conversations import receive_close

GRAPHQL = "graphql-transport-ws"


def load(name: str, *needed: str) -> ModuleType:
    """Return a sample; skip the test at home where its library is not installed."""
    missing = [one for one in needed if find_spec(one) is None]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"not installed: {', '.join(missing)}")
    return import_module(f"tests.adoption.libraries.{name}")


@pytest.fixture(
    autouse=True,
    params=[
        "channels.layers.InMemoryChannelLayer",
        "connections.layers.local.LocalLayer",
    ],
)
def layer(request: pytest.FixtureRequest, settings: Any) -> Any:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": request.param}}
    return get_channel_layer()


async def open_graphql(name: str, **limits: Any) -> Communicator:
    graphql = load("graphql", "strawberry")
    application = graphql.make_application(getattr(graphql, name))
    communicator = Communicator(application, "/graphql/", subprotocols=[GRAPHQL])
    communicator.scope.update(node=make_node(**limits))
    assert await communicator.connect() == (True, GRAPHQL)
    await communicator.send_json_to({"type": "connection_init"})
    assert (await communicator.receive_json_from())["type"] == "connection_ack"
    return communicator


async def subscribe(communicator: Communicator, query: str) -> None:
    payload = {"query": query}
    await communicator.send_json_to(
        {"id": "1", "type": "subscribe", "payload": payload}
    )


async def receive_result(communicator: Communicator) -> Any:
    message = await communicator.receive_json_from()
    return message["payload"]["data"] if message["type"] == "next" else message["type"]


both_orders = pytest.mark.parametrize("name", ["GraphQL", "GraphQLBehind"])


@both_orders
async def test_strawberry_answers_queries_and_subscriptions(name: str) -> None:
    communicator = await open_graphql(name)
    await subscribe(communicator, "{ greeting }")
    assert await receive_result(communicator) == {"greeting": "hello"}
    assert await receive_result(communicator) == "complete"
    await subscribe(communicator, "subscription { countdown(start: 3) }")
    for number in (3, 2, 1):
        assert await receive_result(communicator) == {"countdown": number}
    assert await receive_result(communicator) == "complete"
    await communicator.disconnect()


@both_orders
async def test_strawberry_listens_to_the_channel_layer(name: str, layer: Any) -> None:
    communicator = await open_graphql(name)
    await subscribe(communicator, "subscription { notes }")
    assert await receive_result(communicator) == {"notes": "ready"}
    for text in ("one", "two"):
        await layer.group_send("notes", {"type": "note", "text": text})
        assert await receive_result(communicator) == {"notes": text}
    await communicator.disconnect()


@both_orders
async def test_strawberry_is_limited(name: str) -> None:
    communicator = await open_graphql(name, max_message_size=200)
    await subscribe(communicator, "{ greeting }" + " " * 200)
    assert (await receive_close(communicator))["code"] == 4013
    await communicator.disconnect()


@pytest.mark.django_db(transaction=True)
async def test_rest_actions_and_observers() -> None:
    rest = load("rest", "djangochannelsrestframework", "rest_framework")
    communicator = connect_to(rest.Groups, make_node(), user=AnonymousUser())
    assert (await communicator.connect())[0]

    async def act(action: str, **values: Any) -> Any:
        request = {"action": action, "request_id": 1, **values}
        await communicator.send_json_to(request)
        return await communicator.receive_json_from()

    assert (await act("watch"))["data"] == {"watching": True}
    assert (await act("create", data={"name": "one"}))["response_status"] == 201
    changed = {"changed": {"action": "create", "name": "one"}}
    assert await communicator.receive_json_from() == changed
    await Group.objects.acreate(name="two")
    assert (await communicator.receive_json_from())["changed"]["name"] == "two"
    assert (await act("list"))["data"] == [{"name": "one"}, {"name": "two"}]
    assert (await act("nonsense"))["response_status"] == 405
    await communicator.disconnect()


async def test_a_shared_document_never_diverges() -> None:
    """The client types faster than the rate: those too many wait."""
    document = load("document", "pycrdt")
    rate = {"messages_per_second": 100, "burst_messages": 200}
    consumer = document.make_consumer()
    communicator = connect_to(consumer, make_node(rate_limit=rate))
    await communicator.connect()
    typist = document.Typist()
    letters = "The quick brown fox jumps over the lazy dog. " * 5
    messages = typist.type(letters[:203])
    assert len(messages) == 203
    for message in (*messages, typist.ask()):
        await communicator.send_to(bytes_data=message)
    await communicator.receive_from()
    reader = document.Typist()
    reader.take(await communicator.receive_from())
    assert str(consumer.doc[document.KEY]) == str(typist.text) == letters[:203]
    await communicator.disconnect()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", ["Components", "ComponentsBehind"])
async def test_tetra_subscribes_and_notifies(name: str, layer: Any) -> None:
    live = load("live", "tetra")
    session = SessionStore()
    await session.acreate()
    communicator = connect_to(
        getattr(live, name), make_node(), user=AnonymousUser(), session=session
    )
    assert (await communicator.connect())[0]
    for status in ("subscribed", "resubscribed"):
        await communicator.send_json_to({"type": "subscribe", "group": "news"})
        assert (await communicator.receive_json_from())["status"] == status
    news = {"type": "notify", "group": "news", "event_name": "news", "data": {"n": 1}}
    for group in ("news", f"session.{session.session_key}", "broadcast"):
        await layer.group_send(group, news)
        assert await communicator.receive_json_from() == news
    await communicator.disconnect()
