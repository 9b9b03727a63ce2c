"""Test the tools of a model, against a real HTTP server that asks for them."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from connections.node.node import Node
from connections.storage.database import Database
from connections.testing.communicators import make_config
from connections.testing.waiting import scale, wait_until
from orchestra.responders import CompletionsResponder
from orchestra.tools import Tool, ToolFailed
from sessions_history.log import get_log
from sessions_history.models import HistoryEntry
from sessions_history.parts import Part, read_parts
from sessions_history.responders import ResponderFailed
from tests.orchestra.model_server import DONE, Model, call, event, serve_model
from tests.sessions_history.talks import Talk, talk

QUICK = {"node": {"node_timeout_seconds": 1}}


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    async with serve_model() as model:
        yield model


async def search(query: str, most: int = 3) -> list[str]:
    """Search the library."""
    return [query.upper()] * most


class Refunds:
    """Refunds orders, and counts how often."""

    def __init__(self) -> None:
        self.orders: list[int] = []

    async def refund(self, order: int) -> dict[str, int]:
        self.orders.append(order)
        return {"refunded": order}

    @property
    def tool(self) -> Tool:
        schema = {"type": "object", "properties": {"order": {"type": "integer"}}}
        return Tool(run=self.refund, parameters=schema, needs_approval=True)


def make_responder(model: Model, **options: Any) -> CompletionsResponder:
    return CompletionsResponder(
        base_url=model.base_url, **{"timeout_seconds": scale(5), **options}
    )


async def collect(responder: CompletionsResponder, message: Any = "hello") -> list[Any]:
    return [piece async for piece in responder.respond(message, ())]


def read_calls(pieces: list[Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (one.id, one.fields)
        for one in pieces
        if isinstance(one, Part) and one.type == "tool_call"
    ]


async def test_the_model_gets_the_result_of_a_tool(model: Model) -> None:
    asked = call(("a", "search", '{"query":"tide","most":1}'), text="I look. ")
    model.turns = [asked, [event("The moon."), DONE]]
    pieces = await collect(make_responder(model, tools={"search": search}))
    assert "".join(one for one in pieces if isinstance(one, str)) == "I look. The moon."
    assert read_calls(pieces)[1:] == [
        ("a", {"state": "running"}),
        ("a", {"state": "done", "result": ["TIDE"]}),
    ]
    first, second = model.all_asked
    (offered,) = first["tools"]
    assert offered["function"] == {
        "name": "search",
        "description": "Search the library.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string"}, "most": {"type": "integer"}},
            "required": ["query"],
        },
    }
    assert second["tools"] == first["tools"]
    question, answer, result = second["messages"]
    assert question == {"role": "user", "content": "hello"}
    function = {"name": "search", "arguments": '{"query":"tide","most":1}'}
    assert answer == {
        "role": "assistant",
        "content": "I look. ",
        "tool_calls": [{"id": "a", "type": "function", "function": function}],
    }
    assert result == {"role": "tool", "tool_call_id": "a", "content": '["TIDE"]'}


async def test_calls_of_several_rounds_have_ids_of_their_own(model: Model) -> None:
    """Some servers count from the beginning in each response."""
    query = '{"query":"x","most":1}'
    asked = call(("0", "search", query), ("1", "search", query))
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 3}}\n\n'
    model.turns = [[usage, *asked], [usage, *asked], [event("Done."), usage, DONE]]
    pieces = await collect(make_responder(model, tools={"search": search}))
    done = [part_id for part_id, fields in read_calls(pieces) if "result" in fields]
    assert done == ["0", "1", "call-3", "call-4"]
    messages = model.all_asked[2]["messages"]
    ids = [one["tool_call_id"] for one in messages if one["role"] == "tool"]
    assert ids == done
    counted = [
        one.id for one in pieces if isinstance(one, Part) and one.type == "usage"
    ]
    assert counted == ["usage", "usage-2", "usage-3"]


async def test_an_answer_that_is_not_streamed_may_ask_for_a_tool(model: Model) -> None:
    function = {"name": "search", "arguments": '{"query":"x","most":1}'}
    message = {"content": None, "tool_calls": [{"id": "a", "function": function}]}
    choice = {"message": message, "finish_reason": "tool_calls"}
    model.content_type = "application/json"
    last = {"choices": [{"message": {"content": "Done."}, "finish_reason": "stop"}]}
    model.turns = [
        [json.dumps({"choices": [choice]}).encode()],
        [json.dumps(last).encode()],
    ]
    pieces = await collect(make_responder(model, tools={"search": search}))
    assert pieces[-1] == "Done."
    assert read_calls(pieces)[-1] == ("a", {"state": "done", "result": ["X"]})


async def test_the_rounds_are_bounded(model: Model) -> None:
    asked = call(("a", "search", '{"query":"x"}'))
    model.turns = [asked] * 5
    responder = make_responder(model, tools={"search": search}, max_tool_rounds=3)
    with pytest.raises(ResponderFailed, match="used tools in 3 rounds"):
        await collect(responder)
    assert len(model.all_asked) == 3


async def test_without_tools_a_call_is_an_error(model: Model) -> None:
    model.chunks = call(("a", "search", "{}"))
    with pytest.raises(ResponderFailed, match="asked for a tool, and none is offered"):
        await collect(make_responder(model))
    assert "tools" not in model.asked


async def fail(reason: str) -> None:
    raise ToolFailed(reason)


async def crash() -> None:
    raise ConnectionError("secret")


async def give_an_object() -> object:
    return object()


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("unknown", "{}", "no tool 'unknown' is offered, but fail, crash"),
        ("fail", '{"reason":"no paper"}', "no paper"),
        ("fail", '{"reason"', "the arguments are no JSON"),
        ("fail", "[1]", "the arguments are no object of JSON"),
        ("fail", '{"other":1}', "wrong arguments: missing a required argument"),
        ("crash", "", "the tool failed"),
        ("give_an_object", "{}", "the tool failed"),
    ],
)
async def test_the_model_learns_why_a_tool_has_no_result(
    model: Model,
    name: str,
    arguments: str,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model.turns = [call(("a", name, arguments)), [event("Sorry."), DONE]]
    tools = {"fail": fail, "crash": crash, "give_an_object": give_an_object}
    pieces = await collect(make_responder(model, tools=tools))
    assert pieces[-1] == "Sorry."
    _, fields = read_calls(pieces)[-1]
    assert fields["state"] == "error"
    assert reason in fields["result"]["error"]
    assert reason in json.loads(model.asked["messages"][-1]["content"])["error"]
    is_logged = any(one.message.startswith("The tool ") for one in caplog.records)
    assert is_logged == (reason == "the tool failed")


def make_deep(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth - 1):
        found = [found]
    return found


@pytest.mark.parametrize(
    ("given", "content"),
    [
        (["\x00"], '{"error": "the result holds a NUL character"}'),
        ({"a": "\ud800"}, '{"error": "the result holds a lone surrogate"}'),
        ([float("nan")], '{"error": "the result holds NaN or Infinity"}'),
        (make_deep(64), '{"error": "the result holds nesting deeper than 64"}'),
        ("a\x00\ud800", '"a\ufffd\ufffd"'),
        (ToolFailed("no\x00 \ud800"), '{"error": "no\ufffd \ufffd"}'),
    ],
)
@pytest.mark.django_db(transaction=True)
async def test_a_result_that_cannot_be_stored_does_not_end_the_answer(
    model: Model, nodes: list[Node], given: Any, content: str
) -> None:
    async def give() -> Any:
        if isinstance(given, Exception):
            raise given
        return given

    model.turns = [call(("a", "give", "{}")), [event("Sorry."), DONE]]
    node = start(nodes, make_responder(model, tools={"give": give}))
    async with talk(node, subprotocols=("orchestra.v2",)) as alice:
        await alice.say({"text": "hello"})
        entry = await wait_for_answer(alice.session_id)
    assert (entry.state, json.loads(entry.data)["text"]) == ("done", "Sorry.")
    assert model.asked["messages"][-1]["content"] == content


@pytest.mark.parametrize("name", ["", "a b", "ü", "x" * 65])
def test_a_name_that_apis_refuse_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="name of a tool"):
        CompletionsResponder(base_url="http://127.0.0.1/v1", tools={name: search})


def test_a_function_that_is_not_asynchronous_is_an_error() -> None:
    wrong: Any = len
    with pytest.raises(TypeError, match="no asynchronous function"):
        CompletionsResponder(
            base_url="http://127.0.0.1/v1", tools={"search": Tool(run=wrong)}
        )


async def test_nobody_approves_without_a_context(model: Model) -> None:
    refunds = Refunds()
    model.turns = [call(("a", "refund", '{"order":7}')), [event("Sorry."), DONE]]
    pieces = await collect(make_responder(model, tools={"refund": refunds.tool}))
    assert read_calls(pieces)[-1][1]["state"] == "error"
    assert refunds.orders == []


@pytest.fixture
async def nodes() -> AsyncIterator[list[Node]]:
    """Nodes that a test adds, which stop with it."""
    made: list[Node] = []
    yield made
    for node in made:
        await node.stop()


def start(nodes: list[Node], responder: CompletionsResponder) -> Node:
    node = Node(make_config(**QUICK), database=Database())
    nodes.append(node)
    get_log(node).responder = responder
    return node


async def wait_for_question(client: Talk) -> None:
    while True:
        message = await client.receive_type("delta", "entry")
        for part in message.get("parts", ()):
            if part.get("state") == "awaiting_approval":
                return


async def decide(client: Talk, kind: str) -> None:
    await client.send(type=kind, id="deciding-page-1", offset=2, part="a", note="no")
    while (await client.receive_type("ack"))["id"] != "deciding-page-1":
        continue


async def wait_for_answer(session_id: str) -> HistoryEntry:
    async def find() -> HistoryEntry | None:
        entries = HistoryEntry.objects.filter(session=session_id, offset=2)
        return await entries.exclude(state="streaming").afirst()

    entry: HistoryEntry = await wait_until(find)
    return entry


REFUND = ("a", "refund", '{"order":7}')
SEARCH = ("b", "search", '{"query":"x","most":1}')


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("kind", "orders", "content"),
    [
        ("approve", [7], '{"refunded": 7}'),
        ("deny", [], '{"error": "denied", "note": "no"}'),
    ],
)
async def test_a_tool_runs_once_a_person_approved(
    model: Model, nodes: list[Node], kind: str, orders: list[int], content: str
) -> None:
    refunds = Refunds()
    model.turns = [call(REFUND, SEARCH, text="Well. "), [event("Done."), DONE]]
    tools = {"refund": refunds.tool, "search": search}
    node = start(nodes, make_responder(model, tools=tools))
    async with talk(node, subprotocols=("orchestra.v2",)) as alice:
        await alice.say({"text": "my money!"})
        await wait_for_question(alice)
        assert refunds.orders == []
        await decide(alice, kind)
        entry = await wait_for_answer(alice.session_id)
    assert (entry.state, json.loads(entry.data)["text"]) == ("done", "Well. Done.")
    assert refunds.orders == orders
    results = [one["content"] for one in model.asked["messages"][-2:]]
    assert results == [content, '["X"]']


@pytest.mark.django_db(transaction=True)
async def test_another_node_goes_on_with_the_calls_that_are_left(
    model: Model, nodes: list[Node]
) -> None:
    """The call before the question is not run again, and the one after it is run."""
    refunds, searched = Refunds(), list[str]()

    async def find(query: str) -> str:
        searched.append(query)
        return query

    earlier = ("s", "find", '{"query":"first"}')
    later = ("t", "find", '{"query":"second"}')
    asked = call(earlier, REFUND, later, text="Well. ")
    model.turns = [asked, [event("Done."), DONE]]
    tools = {"refund": refunds.tool, "find": find}
    first = start(nodes, make_responder(model, tools=tools))
    async with talk(first, subprotocols=("orchestra.v2",)) as alice:
        await alice.say({"text": "my money!"})
        await wait_for_question(alice)
        session_id = alice.session_id
    await first.stop()
    assert (searched, refunds.orders) == (["first"], [])
    second = start(nodes, make_responder(model, tools=tools))
    async with talk(second, session_id, subprotocols=("orchestra.v2",)) as alice:
        await decide(alice, "approve")
        entry = await wait_for_answer(session_id)
    assert (searched, refunds.orders) == (["first", "second"], [7])
    text = json.loads(entry.data)["text"]
    assert (entry.state, text) == ("done", "Well. Done.")
    parts = read_parts(entry.parts, text)
    calls = {one["id"]: one for one in parts if one["type"] == "tool_call"}
    assert [one["state"] for one in calls.values()] == ["done"] * 3
    assert calls["a"]["approval"]["state"] == "approved"
    answer, *results = model.asked["messages"][1:]
    assert answer["content"] == "Well. "
    assert [one["tool_call_id"] for one in results] == ["s", "a", "t"]
    assert len(model.all_asked) == 2
