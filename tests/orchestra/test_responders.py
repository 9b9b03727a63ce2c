"""Performers against a real HTTP server that speaks chat completions, or does not."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from orchestra.responders import CompletionsResponder, EchoResponder
from sessions_history.responders import HistoryMessage, Responder, ResponderFailed
from tests.orchestra.model_server import DONE, EVENTS, Model, event, serve_model


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    async with serve_model() as model:
        yield model


Ask = Callable[..., AsyncIterator[str]]


@pytest.fixture
def ask(model: Model) -> Ask:
    def ask(
        message: Any = "hello", history: tuple[HistoryMessage, ...] = (), **options: Any
    ) -> AsyncIterator[str]:
        responder: Responder = CompletionsResponder(
            base_url=model.base_url, **{"timeout_seconds": 5, **options}
        )
        return responder.respond(message, history)

    return ask


async def collect(pieces: AsyncIterator[str]) -> list[str]:
    return [piece async for piece in pieces]


async def test_an_echo_comes_a_word_at_a_time_and_whole() -> None:
    text = "  two  words,\n𐍈 and 👩‍👧 e\u0301 "
    pieces = await collect(EchoResponder(0).respond({"text": text}, ()))
    assert len(pieces) > 4
    assert "".join(pieces) == text


async def test_an_echo_of_what_has_no_text_is_its_json() -> None:
    assert (
        "".join(await collect(EchoResponder(0).respond([1, None], ()))) == "[1, null]"
    )


async def test_the_delay_of_an_echo_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ECHO_DELAY_SECONDS", "0.02")
    loop = asyncio.get_running_loop()
    began = loop.time()
    await collect(EchoResponder().respond("a b", ()))
    assert loop.time() - began >= 0.04


async def test_a_model_is_given_the_conversation(model: Model, ask: Ask) -> None:
    model.chunks = [event("Hi"), DONE]
    history = (
        HistoryMessage(offset=1, sender="client", data={"text": "who?"}, state="done"),
        HistoryMessage(offset=2, sender="server", data={"text": "me"}, state="done"),
        HistoryMessage(offset=3, sender="server", data={"text": ""}, state="error"),
    )
    await collect(ask({"text": "again"}, history, model="small", api_key="secret"))
    assert model.path == "/v1/chat/completions"
    assert model.headers["authorization"] == "Bearer secret"
    assert (model.asked["model"], model.asked["stream"]) == ("small", True)
    assert model.asked["messages"] == [
        {"role": "user", "content": "who?"},
        {"role": "assistant", "content": "me"},
        {"role": "user", "content": "again"},
    ]


async def test_pieces_come_as_they_are_sent(model: Model, ask: Ask) -> None:
    """Before the answer is over."""
    model.chunks = [event("one "), 10.0]
    pieces = ask()
    assert await anext(pieces) == "one "
    await pieces.aclose()  # type: ignore[attr-defined]
    async with asyncio.timeout(5):
        await model.has_hung_up.wait()


async def test_events_may_be_cut_anywhere(model: Model, ask: Ask) -> None:
    """Within a character too; comments and other fields say nothing."""
    usage = b'data: {"choices": [], "usage": {"total_tokens": 3}}\r\n\r\n'
    whole = b": ping\r\n\r\nevent: x\r\n" + event("").replace(b'""', '"é👩‍👧"'.encode())
    whole += event("b", finish_reason="stop") + usage + DONE
    model.chunks = [whole[index : index + 1] for index in range(len(whole))]
    assert await collect(ask()) == ["é👩‍👧", "b"]


async def test_an_end_without_done_is_one_that_names_its_reason(
    model: Model, ask: Ask
) -> None:
    model.chunks = [event("all"), event("", finish_reason="stop")]
    assert await collect(ask()) == ["all"]


@pytest.mark.parametrize("is_streamed", [True, False])
@pytest.mark.parametrize(
    ("choice", "match"),
    [
        ({"finish_reason": "length"}, "cut off"),
        ({"finish_reason": "content_filter"}, "content filter"),
        ({"finish_reason": "tool_calls"}, "asked for a tool"),
        ({"finish_reason": "function_call"}, "asked for a tool"),
        ({"content": " \n", "finish_reason": "stop"}, "empty answer"),
        ({"content": None, "finish_reason": "stop"}, "empty answer"),
        ({"content": None, "refusal": "I will not."}, "refused: I will not."),
    ],
)
async def test_an_answer_that_is_not_whole_fails_after_what_came(
    model: Model,
    ask: Ask,
    choice: dict[str, Any],
    match: str,
    is_streamed: bool,
) -> None:
    content = {"content": choice.get("content", "half"), **choice}
    reason = content.pop("finish_reason", "stop")
    part = "delta" if is_streamed else "message"
    answer = json.dumps({"choices": [{part: content, "finish_reason": reason}]})
    if is_streamed:
        model.chunks = [f"data: {answer}\n\n".encode(), DONE]
    else:
        model.content_type, model.chunks = "application/json", [answer.encode()]
    with pytest.raises(ResponderFailed, match=match):
        await collect(ask())


async def test_an_error_in_the_middle_fails_with_its_kind_alone(
    model: Model, ask: Ask
) -> None:
    error = {"error": {"message": "key sk-secret is over", "type": "overloaded"}}
    model.chunks = [event("half "), f"data: {json.dumps(error)}\n\n".encode(), DONE]
    pieces = ask()
    assert await anext(pieces) == "half "
    with pytest.raises(ResponderFailed, match=r"failed: overloaded$"):
        await anext(pieces)


async def test_the_roles_alternate_from_a_user_on(model: Model, ask: Ask) -> None:
    """A failed answer joins two messages; notices of staff are left out."""
    model.chunks = [event("Hi"), DONE]
    rows = [
        ("server", "trimmed question's answer", "done", "message"),
        ("client", "one", "done", "message"),
        ("server", "", "error", "message"),
        ("client", "two", "done", "message"),
        ("server", "maintenance at noon", "done", "notice"),
        ("server", "half", "interrupted", "message"),
    ]
    history = tuple(
        HistoryMessage(
            offset=offset, sender=sender, data={"text": text}, state=state, kind=kind
        )
        for offset, (sender, text, state, kind) in enumerate(rows)
    )
    await collect(ask("three", history))
    assert model.asked["messages"] == [
        {"role": "user", "content": "one\n\ntwo"},
        {"role": "assistant", "content": "half"},
        {"role": "user", "content": "three"},
    ]


async def test_an_answer_that_is_not_streamed_is_taken(model: Model, ask: Ask) -> None:
    model.content_type = "application/json"
    answer = {"choices": [{"message": {"role": "assistant", "content": "all of it"}}]}
    model.chunks = [json.dumps(answer).encode()]
    assert await collect(ask()) == ["all of it"]


@pytest.mark.parametrize("status", ["500 Oops", "401 No", "302 Found", "429 Slow"])
async def test_a_failing_model_is_an_error(model: Model, ask: Ask, status: str) -> None:
    model.status = status
    model.chunks = [b"secret details"]
    with pytest.raises(ResponderFailed, match=f"HTTP {status[:3]}$"):
        await collect(ask())


@pytest.mark.parametrize(
    ("chunks", "kind"),
    [
        ([b"<html>hello</html>"], "text/html"),
        ([b"data: {not json}\n\n"], EVENTS),
        ([b"data: [1, 2]\n\n"], EVENTS),
        ([b'data: {"error": {"message": "overloaded"}}\n\n'], EVENTS),
        ([b"data: " + b"[" * 100_000 + b"\n\n"], EVENTS),
        ([b"x" * 700_000] * 2, EVENTS),
        ([b"\x00\xff\xfe" * 10], EVENTS),
        ([b"{}"], "application/json"),
        ([b'{"choices": [{"message": {"content": null}}]}'], "application/json"),
        ([b"x" * 1_500_000] * 2, "application/json"),
    ],
)
async def test_garbage_is_an_error(
    model: Model, ask: Ask, chunks: list[bytes | float], kind: str
) -> None:
    model.chunks, model.content_type = chunks, kind
    with pytest.raises(ResponderFailed):
        await collect(ask())


@pytest.mark.parametrize("is_whole", [True, False])
async def test_an_answer_that_breaks_off_is_an_error_after_what_came(
    model: Model, ask: Ask, is_whole: bool
) -> None:
    model.chunks, model.is_whole = [event("half an ")], is_whole
    pieces = ask()
    assert await anext(pieces) == "half an "
    with pytest.raises(ResponderFailed, match="broke off"):
        await anext(pieces)


async def test_a_slow_model_is_an_error(model: Model, ask: Ask) -> None:
    model.chunks = [event("one "), 10.0]
    pieces = ask(timeout_seconds=0.05)
    assert await anext(pieces) == "one "
    with pytest.raises(ResponderFailed, match=r"for 0\.05 s"):
        await anext(pieces)


async def test_a_model_that_is_away_is_an_error(model: Model) -> None:
    responder = CompletionsResponder(base_url="http://127.0.0.1:1/v1")
    with pytest.raises(ResponderFailed, match="reached"):
        await collect(responder.respond("x", ()))


@pytest.mark.parametrize(
    ("name", "value", "responder"),
    [
        ("COMPLETIONS_BASE_URL", "", CompletionsResponder),
        ("ECHO_DELAY_SECONDS", "soon", EchoResponder),
        ("ECHO_DELAY_SECONDS", "nan", EchoResponder),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, responder: type
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ImproperlyConfigured, match=name):
        responder()
