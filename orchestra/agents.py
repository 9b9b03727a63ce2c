"""Answer with three agents, for a demonstration without any language model."""

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Sequence

from orchestra.environment import read_seconds
from orchestra.library import NOTES, Note, find_words, search
from orchestra.responders import get_text
from sessions_history.parts import REASONING, TOOL_CALL, Part
from sessions_history.responders import AnswerContext, HistoryMessage

PLANNER = "planner"
RESEARCHER = "researcher"
WRITER = "writer"

SEARCH = "search_library"
SEARCH_WEB = "search_web"
"""The researcher's tools; a person has to approve the second."""

_WANTS_WEB = re.compile(r"\b(?:web|online|internet)\b", re.IGNORECASE)

_SEARCH_DELAYS = 15
"""How many delays a search takes."""

_MOST_NOTES = 3
_MOST_WORDS = 8
_PIECE = re.compile(r"\s*\S+|\s+")


class AgentsResponder:
    """
    Lets a planner, a researcher and a writer answer from a small library of notes.

    The planner chooses the words to search for, the researcher calls a search tool, and
    the writer writes from what was found. A message that speaks of the web or the
    internet makes the researcher ask whether it may search there; what it finds is
    further notes, for no request leaves the process. The same message at the same place
    of a session gets the same answer. AGENTS_DELAY_SECONDS (0.05) passes before each
    word.

    Another node goes on with an answer that waits for this: all that comes before the
    question is there.
    """

    is_resumable = True

    def __init__(self, delay_seconds: float | None = None) -> None:
        if delay_seconds is None:
            delay_seconds = read_seconds("AGENTS_DELAY_SECONDS", 0.05)
        self._delay_seconds = delay_seconds

    async def respond(
        self, message: object, history: Sequence[HistoryMessage], context: AnswerContext
    ) -> AsyncIterator[Part]:
        """Yield what the agents think, look up and write, word by word."""
        text = get_text(message)
        chance = random.Random(f"{context.offset} {text}")
        words = find_words(text)[:_MOST_WORDS]
        written = 0
        plan = _make_plan(words, chance)
        if not context.parts:
            async for part in self._grow(REASONING, PLANNER, plan):
                yield part
        query, found = " ".join(words), list[Note]()
        if words:
            wants_web = _WANTS_WEB.search(text) is not None
            async for part in self._research(query, wants_web, context, found):
                yield part
        async for part in self._grow("text", WRITER, _write(query, found, chance)):
            written += 1
            yield part
        read = len(text.split()) + sum(len(note.text.split()) for note in found)
        yield Part(
            "usage",
            author=WRITER,
            input_tokens=read,
            output_tokens=written,
            model="demonstration",
        )

    async def _research(
        self, query: str, wants_web: bool, context: AnswerContext, found: list[Note]
    ) -> AsyncIterator[Part]:
        """Yield the searches and what is thought of them; add to what is found."""
        found += search(query, _MOST_NOTES)
        is_new = not context.parts
        if is_new:
            async for part in self._call(SEARCH, context.offset, query):
                yield part
            async for part in self._run(SEARCH, context.offset, found):
                yield part
        thoughts = _make_thoughts(query, found)
        if wants_web:
            if is_new:
                async for part in self._call(SEARCH_WEB, context.offset, query):
                    yield part
            decision = await context.approval(_name_call(SEARCH_WEB, context.offset))
            if decision.is_approved:
                more = search(query, 2 * _MOST_NOTES)[_MOST_NOTES:]
                async for part in self._run(SEARCH_WEB, context.offset, more):
                    yield part
                found += more
                thoughts += f" The web adds {len(more)}."
            else:
                thoughts += " I may not search the web, so this is all."
        async for part in self._grow(REASONING, RESEARCHER, thoughts):
            yield part
        for note in found:
            yield Part("source", author=RESEARCHER, url=note.url, title=note.title)

    async def _grow(self, type_: str, author: str, text: str) -> AsyncIterator[Part]:
        for piece in _PIECE.findall(text):
            await asyncio.sleep(self._delay_seconds)
            yield Part(type_, author=author, text=piece)

    async def _call(self, tool: str, offset: int, query: str) -> AsyncIterator[Part]:
        """Yield a call of a tool, whose arguments grow."""
        call_id = _name_call(tool, offset)
        given = json.dumps({"query": query, "most": _MOST_NOTES}, ensure_ascii=False)
        yield Part(TOOL_CALL, id=call_id, author=RESEARCHER, name=tool)
        for piece in _PIECE.findall(given):
            await asyncio.sleep(self._delay_seconds)
            yield Part(TOOL_CALL, id=call_id, arguments=piece)

    async def _run(
        self, tool: str, offset: int, found: Sequence[Note]
    ) -> AsyncIterator[Part]:
        """Yield that a called tool runs, and its result."""
        call_id = _name_call(tool, offset)
        yield Part(TOOL_CALL, id=call_id, state="running")
        await asyncio.sleep(_SEARCH_DELAYS * self._delay_seconds)
        result = [
            {"title": note.title, "url": note.url, "text": note.text} for note in found
        ]
        yield Part(TOOL_CALL, id=call_id, result=result, state="done")


def _name_call(tool: str, offset: int) -> str:
    return f"{tool}-{offset}"


def _make_plan(words: Sequence[str], chance: random.Random) -> str:
    if not words:
        return "No word of this says what it is about. The writer can say what we know."
    begin = chance.choice(("This is about", "The person asks about", "The subject:"))
    listed = ", ".join(words)
    return (
        f"{begin} {listed}. The researcher looks these words up in our library; the"
        " writer then answers from what is found, and names the sources."
    )


def _make_thoughts(query: str, found: Sequence[Note]) -> str:
    if not found:
        return f"No note has any of the words “{query}”. I invent nothing."
    best = found[0].title
    return f"{len(found)} notes fit. “{best}” has the rarest of the words, so it leads."


def _write(query: str, found: Sequence[Note], chance: random.Random) -> str:
    if not found:
        about = f" about “{query}”" if query else ""
        known = chance.sample([note.title for note in NOTES], 3)
        listed = "\n".join(f"- {title}" for title in known)
        return (
            f"Our library has nothing{about}: it is {len(NOTES)} notes on connections"
            f" and on what survives them. Ask about one of these:\n\n{listed}"
        )
    begin = chance.choice(
        ("In short:", "This is what we know:", "From what the researcher found:")
    )
    lead, *others = found
    paragraphs = [f"{begin} {lead.text}"]
    if others:
        link = chance.choice(("The library adds:", "Beside it:", "Other notes say:"))
        listed = "\n".join(f"- **{one.title}.** {one.text}" for one in others)
        paragraphs += [link, listed]
    return "\n\n".join(paragraphs)
