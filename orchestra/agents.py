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
"""The researcher's tool."""

_SEARCH_DELAYS = 15
"""How many delays a search takes."""

_MOST_NOTES = 3
_MOST_WORDS = 8
_PIECE = re.compile(r"\s*\S+|\s+")


class AgentsResponder:
    """
    Lets a planner, a researcher and a writer answer from a small library of notes.

    The planner chooses the words to search for, the researcher calls a search tool, and
    the writer writes from what was found. The same message at the same place of a
    session gets the same answer. AGENTS_DELAY_SECONDS (0.05) passes before each word.
    """

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
        async for part in self._grow(REASONING, PLANNER, _make_plan(words, chance)):
            yield part
        query, found = " ".join(words), list[Note]()
        if words:
            async for part in self._call_search(context.offset, query):
                yield part
            found = search(query, _MOST_NOTES)
            thoughts = _make_thoughts(query, found)
            async for part in self._grow(REASONING, RESEARCHER, thoughts):
                yield part
            for note in found:
                yield Part("source", author=RESEARCHER, url=note.url, title=note.title)
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

    async def _grow(self, type_: str, author: str, text: str) -> AsyncIterator[Part]:
        for piece in _PIECE.findall(text):
            await asyncio.sleep(self._delay_seconds)
            yield Part(type_, author=author, text=piece)

    async def _call_search(self, offset: int, query: str) -> AsyncIterator[Part]:
        """Yield a call of the search tool: its arguments, and then its result."""
        call_id = f"search-{offset}"
        given = json.dumps({"query": query, "most": _MOST_NOTES}, ensure_ascii=False)
        yield Part(TOOL_CALL, id=call_id, author=RESEARCHER, name=SEARCH)
        for piece in _PIECE.findall(given):
            await asyncio.sleep(self._delay_seconds)
            yield Part(TOOL_CALL, id=call_id, arguments=piece)
        yield Part(TOOL_CALL, id=call_id, state="running")
        await asyncio.sleep(_SEARCH_DELAYS * self._delay_seconds)
        result = [
            {"title": note.title, "url": note.url, "text": note.text}
            for note in search(query, _MOST_NOTES)
        ]
        yield Part(TOOL_CALL, id=call_id, result=result, state="done")


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
