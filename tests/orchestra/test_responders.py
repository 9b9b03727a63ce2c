"""Performers against a real HTTP server that speaks chat completions, or does not."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from connections.testing.waiting import scale
from orchestra.model_parts import ModelParts
from orchestra.responders import CompletionsResponder, EchoResponder
from sessions_history.responders import HistoryMessage, Responder, ResponderFailed
from tests.orchestra.model_server import (
    DONE,
    EVENTS,
    Model,
    Pause,
    event,
    serve_model,
)


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    async with serve_model() as model:
        yield model


Ask = Callable[..., AsyncIterator[Any]]


@pytest.fixture
def ask(model: Model) -> Ask:
    def ask(
        message: Any = "hello", history: tuple[HistoryMessage, ...] = (), **options: Any
    ) -> AsyncIterator[Any]:
        responder: Responder = CompletionsResponder(
            base_url=model.base_url, **{"timeout_seconds": scale(5), **options}
        )
        return responder.respond(message, history)

    return ask


async def collect(pieces: AsyncIterator[Any]) -> list[Any]:
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
    model.chunks = [event("one "), scale(20.0)]
    pieces = ask()
    assert await anext(pieces) == "one "
    await pieces.aclose()  # type: ignore[attr-defined]
    async with asyncio.timeout(scale(10)):
        await model.has_hung_up.wait()


async def test_events_may_be_cut_anywhere(model: Model, ask: Ask) -> None:
    """Within a character too; comments and other fields say nothing."""
    usage = b'data: {"choices": [], "usage": {"total_tokens": 3}}\r\n\r\n'
    whole = b": ping\r\n\r\nevent: x\r\n" + event("").replace(b'""', '"é👩‍👧"'.encode())
    whole += event("b", finish_reason="stop") + usage + DONE
    model.chunks = [whole[index : index + 1] for index in range(len(whole))]
    assert await collect(ask()) == ["é👩‍👧", "b"]


async def test_an_event_may_have_lines_of_any_end_and_a_byte_order_mark(
    model: Model, ask: Ask
) -> None:
    for newline in (b"\r", b"\n", b"\r\n"):
        whole = b'\xef\xbb\xbfdata: {"choices": [\ndata: {"delta":\n'
        whole += b'data: {"content": "one"}, "finish_reason": "stop"}]}\n\n' + DONE
        whole = whole.replace(b"\n", newline)
        for size in (1, 7, len(whole)):
            model.chunks = [
                whole[start : start + size] for start in range(0, len(whole), size)
            ]
            assert await collect(ask()) == ["one"]
    model.chunks = [b'data: {"choices": [\n\n', DONE]
    with pytest.raises(ResponderFailed, match="no JSON"):
        await collect(ask())


async def test_a_content_may_be_a_list_with_reasoning(model: Model, ask: Ask) -> None:
    """As of Mistral."""
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    content = [thinking, {"type": "text", "text": "one"}]
    chunk = {"choices": [{"delta": {"content": content}, "finish_reason": "stop"}]}
    model.chunks = [f"data: {json.dumps(chunk)}\n\n".encode(), DONE]
    thought, text = await collect(ask())
    assert (thought.type, thought.fields, text) == ("reasoning", {"text": "hm"}, "one")


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
        ({"finish_reason": "insufficient_system_resource"}, "as 'insufficient_"),
        ({"finish_reason": "error"}, "as 'error'"),
        ({"tool_calls": [{"id": "1"}], "finish_reason": "stop"}, "asked for a tool"),
        ({"function_call": {"name": "f"}}, "asked for a tool"),
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


async def test_an_error_in_a_field_of_its_own_fails(model: Model, ask: Ask) -> None:
    """llama.cpp sends `error:` instead of `data:`, and then the end."""
    model.chunks = [event("half"), b'error: {"message": "out of memory"}\n\n', DONE]
    with pytest.raises(ResponderFailed, match="the model failed"):
        await collect(ask())


@pytest.mark.parametrize("reason", ["stop", "eos_token", "end_turn"])
async def test_each_reason_of_a_whole_answer_is_known(
    model: Model, ask: Ask, reason: str
) -> None:
    model.chunks = [event("all"), event("", finish_reason=reason), DONE]
    assert await collect(ask()) == ["all"]


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
    ("wait", "told"),
    [
        ("7", r"; try again in 7 s$"),
        ("within an hour", r"; try again in [23][0-9]{3} s$"),
        ("Fri, 31 Dec 2100 23:59:59 GMT", "$"),
        ("Fri, 31 Dec 2010 23:59:59", "$"),
        ("Fri, 99 Dec 2100 23:59:59 GMT", "$"),
        ("soon", "$"),
    ],
)
async def test_the_reason_of_a_failure_is_for_staff_and_the_wait_for_the_client(
    model: Model, ask: Ask, caplog: pytest.LogCaptureFixture, wait: str, told: str
) -> None:
    if wait == "within an hour":
        soon = datetime.now(UTC) + timedelta(hours=1)
        wait = format_datetime(soon, usegmt=True)
    model.status = f"429 Slow\r\nRetry-After: {wait}"
    model.chunks = [b'{"error": {"message": "no  quota", "code": 1}}']
    with pytest.raises(ResponderFailed, match=f"HTTP 429{told}") as failed:
        await collect(ask())
    assert failed.value.reason == "the model answered HTTP 429: no quota\n"
    assert "The model answered HTTP 429: no quota" in caplog.text


@pytest.mark.parametrize("end", ["", "/", "/chat/completions"])
async def test_azure_gets_its_version_and_its_header(model: Model, end: str) -> None:
    model.chunks = [event("one", finish_reason="stop"), DONE]
    url = f"{model.base_url}/openai/deployments/d{end}?api-version=2024-10-21"
    responder = CompletionsResponder(
        base_url=url, api_key="key", timeout_seconds=scale(5)
    )
    assert await collect(responder.respond("x", ())) == ["one"]
    path = "/openai/deployments/d/chat/completions?api-version=2024-10-21"
    assert model.path.endswith(path)
    assert model.headers["api-key"] == "key"
    assert "authorization" not in model.headers


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


async def test_a_body_that_cannot_be_decoded_is_an_error(
    model: Model, ask: Ask
) -> None:
    model.content_type += "\r\nContent-Encoding: gzip"
    model.chunks = [b"no gzip"]
    with pytest.raises(ResponderFailed, match="broke off"):
        await collect(ask())


async def test_a_slow_model_is_an_error(model: Model, ask: Ask) -> None:
    model.chunks = [event("one "), 10.0]
    pieces = ask(timeout_seconds=0.05)
    assert await anext(pieces) == "one "
    with pytest.raises(ResponderFailed, match=r"for 0\.05 s"):
        await anext(pieces)


@pytest.mark.parametrize("begins_with", [[], [b": waiting\n\n"], [event("")]])
async def test_a_cold_model_may_take_longer_for_its_first_piece(
    model: Model, ask: Ask, begins_with: list[bytes]
) -> None:
    """Neither the head, a comment nor an empty piece is its first one."""
    whole = event("one", finish_reason="stop") + DONE
    model.chunks = [*begins_with, Pause(0.05), whole]
    options = {"timeout_seconds": 0.01, "first_timeout_seconds": scale(10)}
    assert await collect(ask(**options)) == ["one"]
    model.chunks = [*begins_with, 10.0]
    with pytest.raises(ResponderFailed, match=r"for 0\.2 s"):
        await collect(ask(first_timeout_seconds=0.2))


async def test_a_head_that_does_not_come_is_an_error(model: Model, ask: Ask) -> None:
    model.head_pause = 10.0
    with pytest.raises(ResponderFailed, match=r"for 0\.2 s"):
        await collect(ask(first_timeout_seconds=0.2))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("reasoning", "hm"),
        ("reasoning_content", "hm"),
        ("reasoning_details", [{"type": "reasoning.summary", "summary": "hm"}]),
    ],
)
async def test_reasoning_is_a_sign_of_life_and_a_part_of_the_answer(
    model: Model, ask: Ask, field: str, value: Any
) -> None:
    thought = {"choices": [{"delta": {"content": None, field: value}}]}
    model.chunks = [
        f"data: {json.dumps(thought)}\n\n".encode(),
        event("one", finish_reason="stop"),
        DONE,
    ]
    part, text = await collect(ask())
    assert (part.type, part.fields, text) == ("reasoning", {"text": "hm"}, "one")
    # After it, the time is that between pieces.
    model.chunks = [model.chunks[0], 10.0]
    with pytest.raises(ResponderFailed, match=r"for 0\.05 s"):
        await collect(ask(timeout_seconds=0.05, first_timeout_seconds=scale(10)))


async def test_the_arguments_of_tool_calls_grow_as_the_model_writes_them(
    model: Model, ask: Ask
) -> None:
    """Two at once, told apart by their index; the responder offers no tool itself."""
    first = {"index": 0, "id": "a", "function": {"name": "search", "arguments": ""}}
    deltas: list[dict[str, Any]] = [
        {"tool_calls": [first]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"q":'}}]},
        {"tool_calls": [{"index": 1, "id": "a", "function": {"name": "add"}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": {"x": 1}}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}, None]},
        {"function_call": {"name": "old", "arguments": "{}"}},
    ]
    model.chunks = [
        f"data: {json.dumps({'choices': [{'delta': delta}]})}\n\n".encode()
        for delta in deltas
    ]
    model.chunks.append(event("", finish_reason="tool_calls"))
    seen = []
    with pytest.raises(ResponderFailed, match="asked for a tool"):
        async for part in ask():
            seen.append((part.type, part.id, part.fields))
    assert seen == [
        ("tool_call", "a", {"name": "search"}),
        ("tool_call", "a", {"arguments": '{"q":'}),
        ("tool_call", "call-2", {"name": "add"}),
        ("tool_call", "call-2", {"arguments": '{"x": 1}'}),
        ("tool_call", "a", {"arguments": "1}"}),
        ("tool_call", "call-3", {"name": "old", "arguments": "{}"}),
    ]


def test_calls_that_share_an_index_are_told_apart_by_their_ids() -> None:
    """As those of Ollama; other servers repeat the id and the name of one call."""
    fragments = [
        ("a", {"name": "add", "arguments": "{}"}),
        ("b", {"name": "add", "arguments": '{"x":'}),
        (None, {"arguments": "1"}),
        ("b", {"name": "add", "arguments": "}"}),
        ("c", {"arguments": " "}),
    ]
    calls = [
        {"index": 0, "id": call_id, "function": function}
        for call_id, function in fragments
    ]
    parts = ModelParts().read({"tool_calls": calls})
    assert [part.id for part in parts] == ["a", "b", "b", "b", "b"]


@pytest.mark.parametrize("choices", [{"choices": []}, {}, {"choices": None}])
async def test_a_chunk_may_carry_the_usage_alone(
    model: Model, ask: Ask, choices: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "orchestra")
    usage = {"prompt_tokens": 3, "completion_tokens": 5}
    chunk = json.dumps({**choices, "usage": usage})
    whole = event("one", finish_reason="stop", usage=None)
    model.chunks = [whole, f"data: {chunk}\n\n".encode(), DONE]
    text, part = await collect(ask())
    assert (text, part.type) == ("one", "usage")
    assert part.fields == {"input_tokens": 3, "output_tokens": 5}
    assert "The model read 3 tokens and wrote 5" in caplog.text


async def test_a_request_has_the_prompt_and_the_parameters_of_the_environment(
    model: Model, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.chunks = [event("one", finish_reason="stop"), DONE]
    for name, value in {
        "SYSTEM_PROMPT": "Be brief.",
        "TEMPERATURE": "0",
        "MAX_TOKENS": "12",
        "EXTRA_BODY": '{"top_p": 0.5, "max_tokens": null, "model": "other"}',
        "EXTRA_HEADERS": '{"X-Title": "demo", "Authorization": "Basic eA=="}',
    }.items():
        monkeypatch.setenv(f"COMPLETIONS_{name}", value)
    await collect(ask("x", api_key="secret"))
    assert model.asked == {
        "model": "other",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "x"},
        ],
        "stream": True,
        "temperature": 0,
        "max_tokens": None,
        "top_p": 0.5,
    }
    assert model.headers["x-title"] == "demo"
    assert model.headers["authorization"] == "Basic eA=="


async def test_a_request_has_the_parameters_of_its_responder(
    model: Model, ask: Ask
) -> None:
    model.chunks = [event("one", finish_reason="stop"), DONE]
    given = {"temperature": 0.5, "max_tokens": 7, "extra_body": {"seed": 1}}
    options = {"system_prompt": "Be kind.", "extra_headers": {"X-A": "b"}}
    await collect(ask("x", **given, **options))
    assert model.asked["messages"][0] == {"role": "system", "content": "Be kind."}
    assert (model.asked["temperature"], model.asked["max_tokens"]) == (0.5, 7)
    assert (model.asked["seed"], model.headers["x-a"]) == (1, "b")


async def test_a_model_that_is_away_is_an_error(model: Model) -> None:
    responder = CompletionsResponder(base_url="http://127.0.0.1:1/v1")
    with pytest.raises(ResponderFailed, match="reached"):
        await collect(responder.respond("x", ()))


@pytest.mark.parametrize(
    ("name", "value", "responder"),
    [
        ("COMPLETIONS_BASE_URL", "", CompletionsResponder),
        ("COMPLETIONS_BASE_URL", "localhost:11434/v1", CompletionsResponder),
        ("COMPLETIONS_BASE_URL", "ftp://localhost/v1", CompletionsResponder),
        ("COMPLETIONS_BASE_URL", "http://", CompletionsResponder),
        ("COMPLETIONS_BASE_URL", "http://host:port", CompletionsResponder),
        ("COMPLETIONS_TIMEOUT_SECONDS", "soon", CompletionsResponder),
        ("COMPLETIONS_FIRST_TIMEOUT_SECONDS", "-1", CompletionsResponder),
        ("COMPLETIONS_TEMPERATURE", "hot", CompletionsResponder),
        ("COMPLETIONS_TEMPERATURE", "2.1", CompletionsResponder),
        ("COMPLETIONS_TEMPERATURE", "nan", CompletionsResponder),
        ("COMPLETIONS_MAX_TOKENS", "0", CompletionsResponder),
        ("COMPLETIONS_MAX_TOKENS", "1.5", CompletionsResponder),
        ("COMPLETIONS_EXTRA_BODY", "top_p=1", CompletionsResponder),
        ("COMPLETIONS_EXTRA_BODY", "[1]", CompletionsResponder),
        ("COMPLETIONS_EXTRA_BODY", '{"stream": false}', CompletionsResponder),
        ("COMPLETIONS_EXTRA_BODY", '{"messages": []}', CompletionsResponder),
        ("COMPLETIONS_EXTRA_HEADERS", '"X: y"', CompletionsResponder),
        ("COMPLETIONS_EXTRA_HEADERS", '{"X-A": 1}', CompletionsResponder),
        ("COMPLETIONS_EXTRA_HEADERS", '{"X A": "1"}', CompletionsResponder),
        ("COMPLETIONS_EXTRA_HEADERS", '{"X-A": "1\\r\\nB: 2"}', CompletionsResponder),
        ("COMPLETIONS_EXTRA_HEADERS", '{"X-A": "\u00e9"}', CompletionsResponder),
        ("COMPLETIONS_EXTRA_HEADERS", '{"X-A": "1 "}', CompletionsResponder),
        ("COMPLETIONS_API_KEY", "not\nthis", CompletionsResponder),
        ("COMPLETIONS_API_KEY", "not-\u00e9", CompletionsResponder),
        ("ECHO_DELAY_SECONDS", "soon", EchoResponder),
        ("ECHO_DELAY_SECONDS", "nan", EchoResponder),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, responder: type
) -> None:
    monkeypatch.setenv("COMPLETIONS_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv(name, value)
    with pytest.raises(ImproperlyConfigured, match=name) as caught:
        responder()
    if name in ("COMPLETIONS_API_KEY", "COMPLETIONS_EXTRA_HEADERS"):
        assert value not in str(caught.value)


async def test_a_key_from_a_file_may_end_with_a_line(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPLETIONS_API_KEY", "secret\n")
    model.chunks = [event("hello"), DONE]
    responder = CompletionsResponder(base_url=model.base_url)
    assert await collect(responder.respond("x", ())) == ["hello"]
    assert model.headers["authorization"] == "Bearer secret"
