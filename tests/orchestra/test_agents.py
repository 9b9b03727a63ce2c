"""Three agents answer in parts, without any language model."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from orchestra.agents import SEARCH, SEARCH_WEB, AgentsResponder
from orchestra.library import NOTES, find_words, search
from sessions_history.decisions import Decision
from sessions_history.parts import Part, PartsLog, read_parts
from sessions_history.responders import AnswerContext

QUESTION = "How does an answer survive when the network is gone?"


class Open:
    """A stream that nobody cancels."""

    is_cancelled = False

    async def cancelled(self) -> None:
        raise AssertionError("the agents do not wait for it")


class Person:
    """Decides on tool calls."""

    def __init__(self, state: str) -> None:
        self.asked: list[str] = []
        self._state = state

    async def decide(
        self, part_id: str, *, timeout_seconds: float | None = None
    ) -> Decision:
        self.asked.append(part_id)
        return Decision(state=self._state)


def make_context(offset: int, **options: Any) -> AnswerContext:
    return AnswerContext(
        session_id="5" * 32,
        message_id="a-1",
        offset=offset,
        client_id="user:1",
        user=None,
        claims=None,
        stream=Open(),
        **options,
    )


async def ask(message: Any, offset: int = 2, **options: Any) -> list[Part]:
    answer = AgentsResponder(0).respond(message, (), make_context(offset, **options))
    return [part async for part in answer]


def assemble(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Return the parts as a client shows them."""
    log, text = PartsLog(), ""
    for part in parts:
        if part.type == "text":
            log.add_text(part, len(text))
            text += part.fields["text"]
        else:
            log.add(part)
    return read_parts(log.changes, text)


async def test_each_agent_does_its_part() -> None:
    shown = assemble(await ask({"text": QUESTION}))
    assert [(one["type"], one["author"]) for one in shown] == [
        ("reasoning", "planner"),
        ("tool_call", "researcher"),
        ("reasoning", "researcher"),
        *[("source", "researcher")] * 3,
        ("text", "writer"),
        ("usage", "writer"),
    ]
    call, text, usage = shown[1], shown[6]["text"], shown[7]
    assert call["name"] == SEARCH
    assert call["state"] == "done"
    assert json.loads(call["arguments"])["query"] == "answer survive network gone"
    sources = [one for one in shown if one["type"] == "source"]
    assert [one["url"] for one in sources] == [one["url"] for one in call["result"]]
    assert call["result"][0]["text"] in text
    assert all(one["title"] in text for one in sources[1:])
    assert usage["output_tokens"] == len(text.split())


async def test_arguments_and_states_of_a_call_come_one_after_the_other() -> None:
    parts = [one for one in await ask(QUESTION) if one.type == "tool_call"]
    assert len([one for one in parts if "arguments" in one.fields]) > 3
    states = [one.fields["state"] for one in parts if "state" in one.fields]
    assert states == ["running", "done"]


async def test_an_answer_is_the_same_at_the_same_place_of_a_session() -> None:
    answers = {
        offset: [str(assemble(await ask(QUESTION, offset))[6]) for _ in range(2)]
        for offset in (2, 4, 6, 8, 10)
    }
    assert all(one == other for one, other in answers.values())
    assert len({one for one, _ in answers.values()}) > 1


@pytest.mark.parametrize(
    "message", [{"text": "Grüße, 日本語"}, "xyzzy plugh", [1, None]]
)
async def test_what_no_note_is_about_gets_no_source(message: Any) -> None:
    """The writer names what the library has instead."""
    shown = assemble(await ask(message))
    assert "source" not in [one["type"] for one in shown]
    text = next(one["text"] for one in shown if one["type"] == "text")
    assert "has nothing" in text
    assert sum(one.title in text for one in NOTES) == 3


@pytest.mark.parametrize("message", [{"text": "why?"}, "", "?"])
async def test_without_a_word_to_look_up_nobody_searches(message: Any) -> None:
    shown = assemble(await ask(message))
    assert [one["type"] for one in shown] == ["reasoning", "text", "usage"]


WEB_QUESTION = "Search the web: what does a server do with slow readers?"


async def test_a_search_of_the_web_waits_for_a_person() -> None:
    """What it finds is a source beside those of the library."""
    person = Person("approved")
    shown = assemble(await ask(WEB_QUESTION, approval=person.decide))
    library, web = [one for one in shown if one["type"] == "tool_call"]
    assert person.asked == [web["id"]]
    assert web["name"] == SEARCH_WEB
    assert web["state"] == "done"
    titles = [one["title"] for one in library["result"] + web["result"]]
    assert [one["title"] for one in shown if one["type"] == "source"] == titles
    assert len(titles) > len(library["result"]) > 0


@pytest.mark.parametrize("state", ["denied", "expired"])
async def test_without_an_approval_the_library_has_to_do(state: str) -> None:
    shown = assemble(await ask(WEB_QUESTION, approval=Person(state).decide))
    library, web = [one for one in shown if one["type"] == "tool_call"]
    assert "result" not in web
    sources = [one["title"] for one in shown if one["type"] == "source"]
    assert sources == [one["title"] for one in library["result"]]
    thoughts = [one["text"] for one in shown if one["type"] == "reasoning"]
    assert thoughts[-1].endswith("I may not search the web, so this is all.")


class Gone(Exception):
    """The node of an answer died while it waited."""


async def test_an_answer_that_waited_goes_on_where_its_node_left_it() -> None:
    async def die(part_id: str, *, timeout_seconds: float | None = None) -> Decision:
        raise Gone

    before: list[Part] = []
    with pytest.raises(Gone):
        answer = AgentsResponder(0).respond(
            WEB_QUESTION, (), make_context(2, approval=die)
        )
        async for part in answer:
            before.append(part)
    approve = Person("approved").decide
    after = await ask(WEB_QUESTION, parts=assemble(before), approval=approve)
    whole = await ask(WEB_QUESTION, approval=approve)
    assert assemble([*before, *after]) == assemble(whole)
    assert assemble(before)[-1]["name"] == SEARCH_WEB


def test_a_search_finds_other_forms_of_a_word() -> None:
    found = {one.title for one in search("reconnecting", 3)}
    jitter = "Timeouts, retries, and backoff with jitter"
    assert found == {jitter, "MDN: The WebSocket API"}
    assert search("constantinople", 3) == []
    assert len(search("server client message", 2)) == 2


def test_words_that_say_nothing_are_left_out() -> None:
    assert find_words("What does the Server do with a server?") == ["server"]


def test_each_note_has_an_address_that_a_page_may_link() -> None:
    assert all(one.url.startswith("https://") for one in NOTES)
    assert len({one.url for one in NOTES}) == len(NOTES)


def test_a_wrong_delay_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTS_DELAY_SECONDS", "soon")
    with pytest.raises(ImproperlyConfigured, match="AGENTS_DELAY_SECONDS is 'soon'"):
        AgentsResponder()
