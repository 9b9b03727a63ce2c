"""Parse chat completions: server-sent events, piece by piece."""

import json
import logging
from collections.abc import AsyncIterator, Collection, Iterator
from typing import Any

from orchestra.model_parts import ModelParts, read_usage
from sessions_history.parts import TOOL_CALL, Part

logger = logging.getLogger(__name__)

_MAX_LINE = 1_000_000
_MAX_LINES = 100
_DONE = "[DONE]"


class Unreadable(Exception):
    """The response is not an answer of the API."""


class Unfinished(Exception):
    """The model ended its answer, but not as done; the text says why."""


class AskedForTool(Unfinished):
    """The model asks for a tool, whose result it needs to go on."""


_WHOLE = ("stop", "stop_sequence", "end_turn", "eos", "eos_token")
"""Reasons for the end of a whole answer, of OpenAI and of servers like it."""

_TOOLS = ("tool_calls", "function_call")
_NO_TOOL = "the model asked for a tool, and none is offered"
_ENDS = {
    "length": "the answer was cut off at the limit of the model",
    "content_filter": "a content filter of the model ended the answer",
}
"""Texts for the known reasons of an end that is no whole answer."""

_REASONING = ("reasoning", "reasoning_content", "reasoning_details")
"""Fields with the reasoning of a model, of OpenRouter, DeepSeek, vLLM and Ollama."""

_MAX_REFUSAL = 500
_MAX_REASON = 50


class Answer:
    """What is known of an answer: its parts, its end, and a refusal."""

    def __init__(self, ids: Collection[str] = (), usage_id: str = "usage") -> None:
        """Begin an answer; its tool calls get other ids than those that are there."""
        self._usage_id = usage_id
        self.is_finished = False
        self.is_thinking = False
        """True after a choice with reasoning, which is no part of the text."""
        self._reason = "stop"
        self._refusal = ""
        self._has_text = False
        self._asks_for_tool = False
        self._parts = ModelParts(ids)

    def read(self, chunk: dict[str, Any], part: str) -> list[str | Part]:
        """Return the pieces of a chunk, which has them as `delta` or `message`."""
        pieces = self._read_choice(_find_choice(chunk), part)
        usage = read_usage(chunk.get("usage"), self._usage_id)
        return [*pieces, usage] if usage else pieces

    def _read_choice(self, choice: dict[str, Any], part: str) -> list[str | Part]:
        reason = choice.get("finish_reason")
        if reason is not None:
            self.is_finished, self._reason = True, str(reason)
        content = choice.get(part)
        self.is_thinking = False
        if not isinstance(content, dict):
            return []
        if any(content.get(name) for name in _TOOLS):
            self._asks_for_tool = True
        refusal = content.get("refusal")
        if isinstance(refusal, str):
            self._refusal = (self._refusal + refusal)[:_MAX_REFUSAL]
        has_reasoning = any(content.get(name) for name in _REASONING)
        self.is_thinking = has_reasoning or isinstance(content.get("content"), list)
        text = _join_text(content.get("content"))
        self._has_text = self._has_text or bool(text.strip())
        parts = self._parts.read(content)
        calls = [one for one in parts if one.type == TOOL_CALL]
        others = [one for one in parts if one.type != TOOL_CALL]
        return [*others, text, *calls] if text else [*others, *calls]

    def check(self) -> None:
        """
        Check at the end that the answer is a whole one.

        Raises:
            AskedForTool: it asks for a tool.
            Unfinished: it was cut off, filtered or refused, has no text, or ended for
                a reason that is unknown here.
        """
        if self._refusal:
            raise Unfinished(f"the model refused: {self._refusal}")
        if self._reason in _TOOLS:
            raise AskedForTool(_NO_TOOL)
        if self._reason not in _WHOLE:
            unknown = f"the model ended the answer as {self._reason[:_MAX_REASON]!r}"
            raise Unfinished(_ENDS.get(self._reason, unknown))
        if self._asks_for_tool:
            raise AskedForTool(_NO_TOOL)
        if not self._has_text:
            raise Unfinished("the model gave an empty answer")


def _join_text(content: Any) -> str:
    """Return the text of a content, which Mistral sends as a list with reasoning."""
    parts = content if isinstance(content, list) else [content]
    texts = [one.get("text") if isinstance(one, dict) else one for one in parts]
    return "".join(text for text in texts if isinstance(text, str))


async def read_pieces(
    chunks: AsyncIterator[bytes], answer: Answer
) -> AsyncIterator[str | Part]:
    """
    Yield the pieces of a streamed answer, an empty text for reasoning without words.

    The API ends with `[DONE]`; servers that leave it out send a `finish_reason`.

    Raises:
        Unreadable: it is something else, or broke off before its end.
        Unfinished: the model ended it for another reason than being done.
    """
    async for value in _read_events(chunks):
        if value == _DONE:
            answer.is_finished = True
            break
        pieces = answer.read(_read_chunk(value), "delta")
        for piece in pieces:
            yield piece
        if answer.is_thinking and not pieces:
            yield ""
    if not answer.is_finished:
        raise Unreadable("the answer broke off")
    answer.check()


def read_whole(body: bytes, answer: Answer) -> Iterator[str | Part]:
    """
    Yield the pieces of an answer that was not streamed.

    Raises:
        Unreadable: it is something else.
        Unfinished: the model ended it for another reason than being done.
    """
    yield from answer.read(_read_chunk(body.decode("utf-8", "replace")), "message")
    answer.check()


def _read_chunk(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise Unreadable("no JSON") from exc
    if not isinstance(content, dict):
        raise Unreadable("no choices")
    if content.get("error"):
        raise Unfinished(f"the model failed: {_describe(content['error'])}")
    _log_usage(content.get("usage"))
    return content


def _find_choice(content: dict[str, Any]) -> dict[str, Any]:
    choices = content.get("choices")
    if choices == [] or (choices is None and "usage" in content):
        return {}  # The last chunk may carry the usage alone.
    if not isinstance(choices, list) or not isinstance(choices[0], dict):
        raise Unreadable("no choices")
    choice: dict[str, Any] = choices[0]
    return choice


def _log_usage(usage: Any) -> None:
    """Log the tokens that a model counted; most servers send them once, at the end."""
    if isinstance(usage, dict):
        logger.debug(
            "The model read %s tokens and wrote %s",
            usage.get("prompt_tokens"),
            usage.get("completion_tokens"),
            extra={"event": "model_usage"},
        )


def _describe(error: Any) -> str:
    """Return the kind of an error of the API; its text may hold what is secret."""
    if isinstance(error, dict):
        error = error.get("code") or error.get("type")
    return str(error)[:100] if isinstance(error, str | int) else "without a reason"


async def _read_events(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """
    Yield the data of each event, as soon as it is JSON or the end.

    The data of an event may have several lines (WHATWG HTML, section 9.2.6), and
    some servers leave out the empty line between events.
    """
    lines: list[str] = []
    async for line in _split_lines(chunks):
        # Comments keep the connection alive; event names and ids carry nothing here.
        field, _, value = line.partition(":")
        if field == "error":
            # llama.cpp sends its errors in a field of their own.
            raise Unfinished("the model failed")
        if field == "data":
            lines.append(value.strip())
            text = "\n".join(lines)
            if text == _DONE or _is_json(text):
                lines.clear()
                yield text
        if lines and (not line or len(lines) > _MAX_LINES):
            raise Unreadable("no JSON")
    if lines:
        raise Unreadable("the answer broke off")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    except RecursionError as exc:
        raise Unreadable("no JSON") from exc
    return True


async def _split_lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """
    Split by bytes at CR, LF, or both, without a byte order mark at the start.

    A chunk may end within a character, or between CR and LF.
    """
    rest, is_first, is_after_cr = b"", True, False
    async for chunk in chunks:
        part = chunk[1:] if is_after_cr and chunk.startswith(b"\n") else chunk
        is_after_cr = part.endswith(b"\r") if part else is_after_cr and not chunk
        lines = (rest + part).splitlines(keepends=True)
        has_rest = bool(lines) and not lines[-1].endswith((b"\r", b"\n"))
        rest = lines.pop() if has_rest else b""
        for line in lines:
            yield _decode(line, is_first)
            is_first = False
        if len(rest) > _MAX_LINE:
            raise Unreadable("a line without end")
    if rest:
        yield _decode(rest, is_first)


def _decode(line: bytes, is_first: bool) -> str:
    text = line.rstrip(b"\r\n").decode("utf-8", "replace")
    return text.removeprefix("\ufeff") if is_first else text


def read_reason(body: bytes) -> str:
    """Return the reason in the body of an HTTP error, for the log."""
    text = body.decode("utf-8", "replace")
    try:
        content = json.loads(text)
        error = content.get("error", content) if isinstance(content, dict) else content
        found = error.get("message") if isinstance(error, dict) else error
    except (ValueError, RecursionError):
        found = text
    return " ".join(str(found or text).split())[:_MAX_REFUSAL]
